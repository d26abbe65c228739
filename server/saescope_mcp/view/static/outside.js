// From the address of a result to the window, in a browser that has opened it; its key is not in the address.
const key = (() => {
  try {
    return localStorage.getItem("key");
  } catch {
    return null;
  }
})();
const id = location.pathname.split("/").pop();

if (/^[\w-]{32}$/.test(key ?? "")) {
  fetch(`/${key}/static/icon.svg`).then((answer) => {
    if (answer.ok) location.replace(`/${key}/ledger${id ? `?${new URLSearchParams({ result: decodeURIComponent(id) })}` : ""}`);
  });
}
