// A page with its data in itself.
byId("viewer").hidden = false;
showGraph(JSON.parse(byId("graph-data").textContent));
