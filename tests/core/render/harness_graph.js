"use strict";
// The graph's page, driven as a person would, and its app.
const at = (page, id) => page.getElementById(id);
const node = (page, id) => [...page.querySelectorAll("#graph .node")].find((each) => each.dataset.id === id);
const click = (target) => target.dispatchEvent(new MouseEvent("click", { bubbles: true }));
const press = (page, key) => page.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const lines = (page, kind) => page.querySelectorAll(`#graph .edge.${kind}`).length;
const buttons = (page, id) => [...at(page, id).querySelectorAll("button")];

function drawnNow(page) {
  const boxes = [...page.querySelectorAll("#graph .node")].map((each) => each.getBoundingClientRect());
  const svg = at(page, "graph").getBoundingClientRect();
  const outside = boxes.filter((box) => box.left < svg.left - 1 || box.right > svg.right + 1 || box.top < svg.top - 1 || box.bottom > svg.bottom + 1).length;
  return { nodes: boxes.length, edges: page.querySelectorAll("#graph .edge").length, outside };
}

async function driven(html) {
  const holder = await frame(html);
  const page = holder.contentDocument;
  const said = { all: drawnNow(page), kinds: ["confirmed", "refuted", "unmeasured"].map((kind) => lines(page, kind)) };
  said.dashes = ["confirmed", "refuted", "unmeasured"].map((kind) => page.defaultView.getComputedStyle(page.querySelector(`#graph .edge.${kind}`)).strokeDasharray);
  said.contrast = [];
  click(node(page, given.chosen));
  said.card = at(page, "card").innerText;
  said.own = lines(page, "own");
  said.contrast.push(worstContrast(page));
  const first = [...at(page, "card").querySelectorAll(".steps .other")][0];
  first.click();
  said.followed = at(page, "card").querySelector("code").textContent;
  said.pressed = [...page.querySelectorAll("#graph .node[aria-pressed=true]")].map((each) => each.dataset.id);
  buttons(page, "card").find((each) => each.textContent === "Close").click();

  at(page, "share").value = "30";
  at(page, "share").dispatchEvent(new Event("input"));
  said.filtered = drawnNow(page);
  at(page, "errors").click();
  said.withoutErrors = page.querySelectorAll("#graph .node.error").length;
  at(page, "errors").click();
  at(page, "share").value = "100";
  at(page, "share").dispatchEvent(new Event("input"));

  for (const id of given.pins) {
    click(node(page, id));
    buttons(page, "card").find((each) => each.textContent === "Pin").click();
  }
  buttons(page, "card").find((each) => each.textContent === "Close").click();
  at(page, "share").value = "5";
  at(page, "share").dispatchEvent(new Event("input"));
  said.pinnedStay = given.pins.map((id) => Boolean(node(page, id)));
  at(page, "group-name").value = "a: name\n ";
  at(page, "make-group").click();
  said.lines = at(page, "lines").value;
  const renamed = at(page, "groups").querySelectorAll("input")[given.groups];
  renamed.value = "dogs";
  renamed.dispatchEvent(new Event("input"));
  said.renamed = at(page, "lines").value;
  at(page, "copy").click();
  await wait(50);
  said.copied = at(page, "copied").textContent;
  at(page, "share").value = "100";
  at(page, "share").dispatchEvent(new Event("input"));
  said.ringed = page.querySelectorAll("#graph .node.g0, #graph .node.g1").length;
  return [said, holder];
}

function byKeys(page) {
  const said = { stops: page.querySelectorAll("#graph .node[tabindex='0']").length, labelled: [...page.querySelectorAll("#graph .node")].every((each) => each.getAttribute("aria-label")) };
  const start = page.querySelector("#graph .node[tabindex='0']");
  start.focus({ focusVisible: true });
  const here = () => page.activeElement.dataset?.id;
  said.walk = [here()];
  for (const key of ["ArrowDown", "ArrowDown", "ArrowRight", "ArrowLeft", "ArrowUp"]) {
    press(page, key);
    said.walk.push(here());
  }
  press(page, "Enter");
  said.entered = [here(), page.querySelector("#graph .node[aria-pressed=true]")?.dataset.id];
  press(page, "p");
  said.pinned = [...at(page, "pins").querySelectorAll(".other")].length;
  press(page, "p");
  press(page, "Escape");
  said.left = page.querySelectorAll("#graph .node[aria-pressed=true]").length;
  said.focusable = [...page.querySelectorAll("a[href], button:not(:disabled), summary, input, textarea, [tabindex='0']")].filter((each) => each.checkVisibility()).map((each) => {
    each.focus({ focusVisible: true });
    return [each.tagName, page.activeElement === each];
  });
  return said;
}

async function inApp() {
  const said = { messages: [] };
  let holder = null;
  const post = (message) => holder.contentWindow.postMessage({ jsonrpc: "2.0", ...message }, "*");
  const answers = {
    "ui/initialize": () => ({ protocolVersion: "2026-01-26", hostInfo: { name: "harness", version: "1" }, hostCapabilities: given.canRead ? { serverResources: {} } : {}, hostContext: { theme: "dark" } }),
    "resources/read": ({ uri }) => ({ contents: [{ uri, mimeType: "text/html", text: given.hostile }] }),
  };
  window.addEventListener("message", ({ source, data }) => {
    if (source !== holder?.contentWindow) return;
    said.messages.push(data.method ?? "answer");
    if (data.id !== undefined && data.method) post({ id: data.id, result: answers[data.method](data.params) });
    if (data.method === "ui/notifications/initialized") {
      post({ method: "ui/notifications/tool-input", params: { arguments: { prompt: "the old <b>dog" } } });
      post({ method: "ui/notifications/tool-result", params: given.result });
    }
  });
  const ready = frame(given.app, { sandbox: "allow-scripts allow-same-origin" });
  holder = document.body.lastElementChild;
  await ready;
  await wait(300);
  const page = holder.contentDocument;
  said.text = page.body.innerText;
  said.nodes = page.querySelectorAll("#graph .node").length;
  said.shown = page.getElementById("viewer").checkVisibility();
  said.pwned = [window.pwned, holder.contentWindow.pwned];
  said.made = ["img", "iframe", "b"].map((tag) => page.querySelectorAll(tag).length);
  return said;
}

async function run() {
  let holder;
  [seen.page, holder] = await driven(given.page);
  seen.keys = byKeys(holder.contentDocument);
  seen.pwned = [window.pwned, holder.contentWindow.pwned, holder.contentDocument.title];
  seen.fetched = holder.contentWindow.performance.getEntriesByType("resource").map((entry) => entry.name);
  seen.made = ["img", "iframe", "script"].map((tag) => holder.contentDocument.querySelectorAll(tag).length);
  const button = holder.contentDocument.getElementById("theme");
  seen.themes = [];
  for (let n = 0; n < 3; n++) {
    seen.themes.push([background(holder.contentDocument), worstContrast(holder.contentDocument)]);
    button.click();
  }
  for (const width of [360, 320]) {
    const narrow = await frame(given.page, { width });
    const page = narrow.contentDocument;
    const canvas = page.querySelector(".canvas");
    const right = canvas.scrollLeft + canvas.clientWidth;
    click(node(page, given.chosen));
    page.querySelectorAll("details").forEach((each) => (each.open = true));
    seen[`at${width}`] = { overflow: overflow(page), scrolls: canvas.scrollWidth > canvas.clientWidth, right, width: canvas.scrollWidth };
  }
  seen.app = await inApp();
}
