"use strict";
// A host of MCP Apps around one app; a call of a tool waits in `wanted` until somebody answers it.
window.host = { messages: [], wanted: [] };

host.post = (message) => host.frame.contentWindow.postMessage({ jsonrpc: "2.0", ...message }, "*");
host.answer = (id, result) => host.post({ id, result });
host.page = () => host.frame.contentDocument;

host.show = (html, { given, result, theme, abilities, width }) => {
  host.frame?.remove();
  host.messages = [];
  host.wanted = [];
  const said = { "ui/initialize": { protocolVersion: "2026-01-26", hostInfo: { name: "harness", version: "1" }, hostCapabilities: abilities, hostContext: { theme } } };
  window.onmessage = ({ source, data }) => {
    if (source !== host.frame.contentWindow) return;
    host.messages.push(data);
    if (data.method === "tools/call") host.wanted.push(data);
    else if (data.id !== undefined && data.method) host.answer(data.id, said[data.method] ?? {});
    if (data.method === "ui/notifications/initialized") {
      host.post({ method: "ui/notifications/tool-input", params: { arguments: given } });
      host.post({ method: "ui/notifications/tool-result", params: result });
    }
  };
  host.frame = document.createElement("iframe");
  host.frame.style.cssText = `width:${width}px;height:860px;border:0`;
  host.frame.setAttribute("sandbox", "allow-scripts allow-same-origin");
  host.frame.srcdoc = html;
  document.body.style.margin = "0";
  document.body.replaceChildren(host.frame);
};
