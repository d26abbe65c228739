"use strict";
window.addEventListener("error", (event) => seen.errors.push(event.message));
run()
  .catch((error) => seen.errors.push(String(error.stack)))
  .finally(() => {
    const out = document.createElement("pre");
    out.id = "seen";
    out.textContent = JSON.stringify(seen);
    document.body.replaceChildren(out);
  });
