// A view of MCP Apps (specification 2026-01-26): JSON-RPC 2.0 with the host by postMessage. The view before it says APP, hear and receive.
const pending = new Map();
let nextId = 1;
let canRead = false;
let canOpen = false;
let canCall = false;

const send = (message) => window.parent.postMessage({ jsonrpc: "2.0", ...message }, "*");
const tell = (method, params) => send({ method, params });
const ask = (method, params) =>
  new Promise((resolve, reject) => {
    pending.set(nextId, { resolve, reject });
    send({ id: nextId++, method, params });
  });

function adopt(context) {
  if (context?.theme === "light" || context?.theme === "dark") document.documentElement.dataset.theme = context.theme;
  for (const [name, value] of Object.entries(context?.styles?.variables ?? {}))
    if (/^--[\w-]+$/.test(name) && typeof value === "string") document.documentElement.style.setProperty(name, value);
}

const notified = {
  "ui/notifications/tool-input": ({ arguments: given }) => hear(given ?? {}),
  "ui/notifications/tool-result": receive,
  "ui/notifications/tool-cancelled": () => (byId("status").textContent = "The call was cancelled."),
  "ui/notifications/host-context-changed": adopt,
};

window.addEventListener("message", ({ source, data }) => {
  if (source !== window.parent || data?.jsonrpc !== "2.0") return;
  if (data.method === undefined) {
    const waiting = pending.get(data.id);
    pending.delete(data.id);
    if (data.error) waiting?.reject(new Error("refused"));
    else waiting?.resolve(data.result);
  } else if (data.id === undefined) notified[data.method]?.(data.params ?? {});
  else if (data.method === "ping" || data.method === "ui/resource-teardown") send({ id: data.id, result: {} });
  else send({ id: data.id, error: { code: -32601, message: "Method not found" } });
});

document.addEventListener("click", (event) => {
  const anchor = event.target.closest?.("a[href^='https://']");
  if (!anchor) return;
  event.preventDefault();
  if (canOpen) ask("ui/open-link", { url: anchor.href }).catch(() => {});
});

async function start() {
  const said = await ask("ui/initialize", {
    protocolVersion: "2026-01-26",
    appInfo: { name: APP.name, version: "1" },
    appCapabilities: { availableDisplayModes: ["inline", "fullscreen"] },
  });
  canRead = Boolean(said.hostCapabilities?.serverResources);
  canOpen = Boolean(said.hostCapabilities?.openLinks);
  canCall = Boolean(said.hostCapabilities?.serverTools);
  adopt(said.hostContext);
  tell("ui/notifications/initialized", {});
  new ResizeObserver(() => {
    const { width, height } = document.documentElement.getBoundingClientRect();
    tell("ui/notifications/size-changed", { width: Math.ceil(width), height: Math.ceil(height) });
  }).observe(document.documentElement);
}

start().catch(() => (byId("status").textContent = `This page shows the result of ${APP.tool} inside a program that supports MCP Apps.`));
