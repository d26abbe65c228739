"use strict";
// A feature's page and its app.
async function standalone(html) {
  const holder = await frame(html);
  const page = holder.contentDocument;
  const button = page.getElementById("theme");
  const said = { preferred: background(page), themes: [], contrast: [] };
  page.querySelectorAll("details").forEach((node) => (node.open = true));
  for (let n = 0; n < 3; n++) {
    said.themes.push([button.textContent, background(page)]);
    said.contrast.push(worstContrast(page));
    button.click();
  }
  said.pwned = [window.pwned, holder.contentWindow.pwned, page.title];
  const injected = page.createElement("script");
  injected.textContent = "window.injected = 1";
  page.body.append(injected);
  said.injected = holder.contentWindow.injected;
  injected.remove();
  said.fetched = holder.contentWindow.performance.getEntriesByType("resource").map((entry) => entry.name);
  said.elements = ["img", "iframe", "script", "mark"].map((tag) => page.querySelectorAll(tag).length);
  said.peak = page.querySelector("li mark").textContent;
  said.focusable = [...page.querySelectorAll("a[href], button, summary, [tabindex='0']")].map((node) => {
    node.focus({ focusVisible: true });
    return [node.tagName, page.activeElement === node, page.defaultView.getComputedStyle(node).outlineStyle];
  });
  const narrow = await frame(html, { width: 320 });
  narrow.contentDocument.querySelectorAll("details").forEach((node) => (node.open = true));
  said.overflow = { wide: overflow(page), narrow: overflow(narrow.contentDocument) };
  return said;
}

// A host of MCP Apps, with the parts of its protocol that a view may use.
async function app(html, whole, result, abilities) {
  const said = { messages: [], opened: [] };
  let holder = null;
  const post = (message) => holder.contentWindow.postMessage({ jsonrpc: "2.0", ...message }, "*");
  const answers = {
    "ui/initialize": () => ({
      protocolVersion: "2026-01-26",
      hostInfo: { name: "harness", version: "1" },
      hostCapabilities: abilities,
      hostContext: { theme: "dark", styles: { variables: { "--color-text-primary": "rgb(1, 250, 3)", color: "red" } } },
    }),
    "resources/read": ({ uri }) => ({ contents: [{ uri, mimeType: "text/html", text: whole }] }),
    "ui/open-link": ({ url }) => (said.opened.push(url), {}),
  };
  const listen = ({ source, data }) => {
    if (source !== holder?.contentWindow) return;
    said.messages.push(data.method ?? `answer ${data.id}: ${JSON.stringify(data.result ?? data.error?.code)}`);
    if (data.id !== undefined && data.method) post({ id: data.id, result: answers[data.method](data.params) });
    if (data.method === "ui/initialize") said.asked = data.params;
    if (data.method === "ui/notifications/size-changed") said.size = data.params;
    if (data.method === "ui/notifications/initialized") {
      post({ method: "ui/notifications/tool-input", params: { arguments: { sae: "smollm2-135m/14.resid_post", feature: 1234 } } });
      post({ method: "ui/notifications/tool-result", params: result });
    }
  };
  window.addEventListener("message", listen);
  const pageReady = frame(html, { sandbox: "allow-scripts allow-same-origin" });
  holder = document.body.lastElementChild;
  await pageReady;
  await wait(300);
  const page = holder.contentDocument;
  said.short = page.body.innerText;
  said.marks = [...page.querySelectorAll("mark")].map((node) => node.textContent);
  said.theme = page.documentElement.dataset.theme;
  said.ink = page.defaultView.getComputedStyle(page.body).color;
  said.button = !page.getElementById("whole").hidden;
  page.querySelector("a[href^=https]")?.click();
  if (said.button) page.getElementById("whole").click();
  post({ id: 7, method: "ui/resource-teardown", params: { reason: "done" } });
  post({ id: 8, method: "sampling/createMessage", params: {} });
  await wait(300);
  said.whole = page.body.innerText;
  said.sections = page.querySelectorAll("main section").length;
  said.acting = page.querySelectorAll("main script, main img, main [onclick], main [onerror], main iframe").length;
  said.pwned = [window.pwned, holder.contentWindow.pwned];
  window.removeEventListener("message", listen);
  return said;
}

async function run() {
  seen.page = await standalone(given.page);
  seen.app = await app(given.app, given.hostile, given.result, { serverResources: {}, openLinks: {} });
  seen.plain = await app(given.app, "", given.result, {});
  seen.refused = await app(given.app, "", { isError: true, content: [{ type: "text", text: "SAE_NOT_LOADED: call load_sae <b>" }] }, {});
}
