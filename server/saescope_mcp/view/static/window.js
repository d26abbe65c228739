// What all pages share: their parts, calls of tools, the choice of an SAE.
import { bdi, el } from "./parts.js";
export * from "./parts.js";

export const main = document.getElementById("main");
export const asked = new URLSearchParams(location.search);
const status = document.getElementById("said");

export const say = (text) => { status.textContent = text; };

export class Refused extends Error {
  constructor(error) {
    super(error.message ?? "The server did not answer.");
    this.error = error;
  }
}

async function answered(response) {
  const document = await response.json().catch(() => ({ code: `HTTP_${response.status}`, message: "The window gave no answer: is the server still running?" }));
  if (!response.ok) throw new Refused(document);
  return document;
}

export const ask = async (path, given = {}) => answered(await fetch(`${path}?${new URLSearchParams(given)}`));

const send = async (path, given) => answered(await fetch(path, { method: "POST", body: JSON.stringify(given), headers: { "Content-Type": "application/json" } }));

// A tool's document; a job that it starts is followed to its end.
export async function call(tool, given = {}) {
  const done = await send(`call/${tool}`, { response_format: "detailed", ...given });
  return tool === "job_status" ? done : followed(done);
}

// An SAE that is known here, by its handle; "" is the embedded one.
export const load = async (handle, dryRun = false) => followed(await send("load", { handle, dry_run: dryRun }));

async function followed(started) {
  if (started.state !== "running" || !started.job_id) return started;
  for (;;) {
    const job = await call("job_status", { job_id: started.job_id, wait_s: 5 });
    if (job.error) throw new Refused(job.error);
    if (job.state !== "running" && job.state !== "queued") return job.result ?? job;
    say(job.message ?? job.summary);
  }
}

// All rows of a paged list; `most` bounds them.
export async function all(tool, given, rows, most = 2000) {
  const found = [], warnings = new Set();
  let page = { next_offset: 0 };
  while (page.next_offset !== null && page.next_offset !== undefined && found.length < most) {
    page = await call(tool, { ...given, offset: page.next_offset });
    found.push(...(page[rows] ?? [])); // an empty list may be left out
    for (const each of page.warnings ?? []) warnings.add(each);
    if (!page[rows]?.length) break;
  }
  return { ...page, warnings: [...warnings], [rows]: found };
}

export function refusal(error) {
  const told = error instanceof Refused ? error.error : { code: "ERROR", message: error.message };
  return el("div", { class: "refused", role: "alert" }, el("strong", {}, told.code ?? "ERROR"), " ", bdi(told.message ?? ""), told.hint ? el("p", {}, bdi(told.hint)) : "");
}

const turns = new WeakMap();

// Takes the place for some work; the answer says whether it still has it. What comes late for a place that was taken since is not shown.
export function turn(place) {
  const mine = (turns.get(place) ?? 0) + 1;
  turns.set(place, mine);
  return () => turns.get(place) === mine;
}

// Runs `work` while `place` says so, then shows what it returns or why it failed.
export async function within(place, what, work) {
  const newest = turn(place);
  place.replaceChildren(el("p", { class: "quiet busy" }, what));
  place.setAttribute("aria-busy", "true");
  say(what);
  let made, done = "Done.";
  try {
    made = await work();
  } catch (error) {
    made = refusal(error);
    done = "Refused.";
  }
  if (!newest()) return;
  if (made !== undefined) place.replaceChildren(...[made].flat().filter((each) => each !== ""));
  say(done);
  place.removeAttribute("aria-busy");
}


// With the key of this window its browser finds the way from the address of a result, which has none.
try {
  localStorage.setItem("key", location.pathname.split("/")[1]);
} catch {
  say("This browser keeps nothing: addresses of results do not lead here.");
}

// A choice among the loaded SAEs; null, and a way out, where there are none.
export async function choice(chosen = asked.get("sae")) {
  const { loaded } = await ask("saes");
  if (!loaded.length) {
    main.append(el("p", {}, "No SAE is loaded. ", el("a", { href: "./" }, "Load one on the first page"), "."));
    return null;
  }
  const select = el("select", {}, ...loaded.map((row) => el("option", { value: row.handle, selected: row.handle === chosen }, row.handle)));
  return { select, loaded, row: () => loaded.find((row) => row.handle === select.value) };
}

// A form whose submission never leaves the page.
export function form(submit, ...children) {
  return el("form", { onsubmit: (event) => { event.preventDefault(); submit(); } }, ...children);
}
