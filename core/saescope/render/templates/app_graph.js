// The graph of a prompt: what the result says, and the graph itself from the page that the result names.
const APP = { name: "saescope-graph", tool: "trace_circuit" };

function hear(given) {
  byId("where").textContent = visible(given.prompt ?? "");
}

function pageOf(result) {
  const links = (result.content ?? []).filter((block) => block.type === "resource_link" && /^text\/html/.test(block.mimeType ?? ""));
  return result.structuredContent.page || links[0]?.uri;
}

async function receive(result) {
  const said = result.structuredContent;
  if (result.isError || !said) {
    byId("status").textContent = visible((result.content ?? []).map((block) => block.text ?? "").join(" ") || "No result.");
    return;
  }
  byId("status").textContent = visible(said.summary ?? "");
  // What a reading warns of stands among the warnings.
  const lines = visible(said.reading ?? "").replaceAll("\u21b5", "\n").split("\n");
  byId("reading").textContent = lines.filter((line) => !line.startsWith("WARNING: ")).join("\n");
  byId("reading-part").hidden = !said.reading;
  byId("warnings").replaceChildren(...(said.warnings ?? []).map((warning) => element("li", "", visible(warning))));
  const uri = pageOf(result);
  if (uri && canRead) await read(uri);
}

// Only the data of the page are taken, as data.
async function read(uri) {
  try {
    const { contents } = await ask("resources/read", { uri });
    const page = new DOMParser().parseFromString(contents[0].text, "text/html");
    const data = JSON.parse(page.getElementById("graph-data").textContent);
    byId("viewer").hidden = false;
    showGraph(data);
  } catch {
    byId("viewer").hidden = true;
    byId("status").textContent += " The graph cannot be read through this program.";
  }
}
