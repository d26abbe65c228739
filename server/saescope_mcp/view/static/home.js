import { ask, bdi, call, el, main, number, section, within } from "./window.js";

const loaded = el("div"), known = el("div"), jobs = el("div"), last = el("div"), memory = el("div");
main.append(section("SAEs in memory", loaded), section("Load an SAE", known), section("Jobs", jobs), section("Last results", last), section("This machine", memory));

const mb = (bytes) => `${number(bytes / 1e6)} MB`;

function listOf(rows, empty) {
  return rows.length ? el("ul", { class: "rows" }, ...rows.map((row) => el("li", {}, ...row))) : el("p", { class: "quiet" }, empty);
}

function links(handle) {
  const to = (page) => `${page}?${new URLSearchParams({ sae: handle })}`;
  return [["features", "browse"], ["text", "read a text"], ["prediction", "explain"], ["steering", "steer"]].flatMap(([page, said]) => [" ", el("a", { href: to(page) }, said)]);
}

async function showSaes() {
  const here = await ask("saes");
  loaded.replaceChildren(listOf(here.loaded.map((row) => [bdi(row.handle), el("span", { class: "quiet" }, ` ${number(row.n_features)} features at ${row.site}`), el("span", { class: "links" }, ...links(row.handle))]), "None yet: load one below."));
  const rows = [...here.known];
  if (!here.loaded.length && !rows.some((row) => !Object.keys(row.arguments).length)) rows.unshift({ handle: "the embedded SAE (SmolLM2-135M, layer 14)", arguments: {} });
  known.replaceChildren(listOf(rows.map(loader), "All that are known are in memory."));
}

// Costs are said before anything is loaded.
function loader(row) {
  const said = el("div", { class: "cost" });
  const button = el("button", { type: "button", onclick: () => cost(row, said, button) }, "Load\u2026");
  return [bdi(row.handle), " ", button, said];
}

function cost(row, said, button) {
  return within(said, "Looking what it takes; the first time also loads PyTorch, which takes 5 to 15 s.", async () => {
    const plan = await call("load_sae", { ...row.arguments, dry_run: true });
    button.hidden = true;
    const go = el("button", { type: "button", onclick: () => load(row, said) }, "Load it");
    setTimeout(() => go.focus());
    const memory = plan.memory ? el("p", {}, `It takes ${mb(plan.memory.need)}; ${mb(plan.memory.free)} are free.`) : "";
    return [el("p", {}, bdi(plan.summary)), memory, go];
  });
}

function load(row, said) {
  return within(said, "Loading\u2026", async () => {
    const done = await call("load_sae", row.arguments);
    await showSaes();
    return el("p", {}, bdi(done.summary));
  });
}

async function showJobs() {
  const told = await call("job_status");
  jobs.replaceChildren(listOf(told.jobs.slice(0, 8).map((row) => [el("strong", {}, row.state), " ", row.tool === "train_sae" ? el("a", { href: `trainings?${new URLSearchParams({ job: row.job_id })}` }, row.job_id) : row.job_id, " ", bdi(row.message)]), "None."));
}

async function showResults() {
  const told = await call("results", { limit: 8 });
  last.replaceChildren(listOf(told.results.map((row) => [el("a", { href: `ledger?${new URLSearchParams({ result: row.result_id })}` }, row.tool), " ", bdi(row.says), el("span", { class: "quiet" }, ` ${row.created}`)]), "None yet."));
}

async function showMachine() {
  const told = await call("server_status");
  return el("dl", {}, ...[["version", told.version], ["device", told.device], ["memory for models", mb(told.memory.budget)], ["in use", mb(told.memory.used)], ["free", mb(told.memory.free)]].map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))), told.cached_total ? el("div", {}, el("dt", {}, "SAEs on disk"), el("dd", {}, String(told.cached_total))) : "");
}

for (const [place, work] of [[loaded, showSaes], [jobs, showJobs], [last, showResults]]) within(place, "Looking\u2026", work);
within(memory, "Looking; the first time loads PyTorch, which takes 5 to 15 s.", showMachine);
