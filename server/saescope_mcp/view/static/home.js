import { ask, bdi, call, el, evidence, facts, load, main, number, section, toResult, warned, when, within } from "./window.js";

const loaded = el("div"), known = el("div"), jobs = el("div"), last = el("div"), memory = el("div");
main.append(section("SAEs in memory", loaded), section("Load an SAE", known), section("Jobs", jobs), section("Last results", last), section("This machine", memory));

const mb = (bytes) => `${number(bytes / 1e6)} MB`;

function listOf(rows, empty) {
  return rows.length ? el("ul", { class: "rows" }, ...rows.map((row) => el("li", {}, ...row))) : el("p", { class: "quiet" }, empty);
}

function links(handle) {
  const to = (page) => `${page}?${new URLSearchParams({ sae: handle })}`;
  return [["features", "browse"], ["text", "read a text"], ["prediction", "explain"], ["steering", "steer"]].map(([page, said]) => el("a", { href: to(page), "aria-label": `${said}: ${handle}` }, said));
}

async function showSaes() {
  const here = await ask("saes");
  const sets = here.sets.map((handle) => [bdi(handle), el("span", { class: "quiet" }, " a set: one SAE a layer")]);
  loaded.replaceChildren(listOf([...here.loaded.map((row) => [bdi(row.handle), el("span", { class: "quiet" }, ` ${number(row.n_features)} features at ${row.site}`), el("span", { class: "links" }, ...links(row.handle))]), ...sets], "None yet: load one below."));
  const rows = here.known.map((handle) => [handle, handle]);
  if (!here.loaded.length) rows.unshift(["", "the embedded SAE (SmolLM2-135M, layer 14)"]);
  known.replaceChildren(listOf(rows.map(loader), "All that are known are in memory."));
}

// Costs are said before anything is loaded.
function loader([handle, name]) {
  const said = el("div", { class: "cost" });
  const button = el("button", { type: "button", "aria-label": `Load ${name}`, onclick: () => cost(handle, said, button) }, "Load\u2026");
  return [bdi(name), " ", button, said];
}

function cost(handle, said, button) {
  return within(said, "Looking what it takes; the first time also loads PyTorch, which takes 5 to 15 s.", async () => {
    const plan = await load(handle, true);
    button.hidden = true;
    const go = el("button", { type: "button", onclick: () => start(handle, said) }, "Load it");
    setTimeout(() => go.focus());
    const room = plan.memory ? el("p", {}, `It takes ${mb(plan.memory.need)}; ${mb(plan.memory.free)} are free.`) : "";
    return [el("p", {}, bdi(plan.summary)), ...warned(plan), room, go];
  });
}

// What a load found out about the SAE stays to be read.
function start(handle, said) {
  return within(said, "Loading\u2026", async () => {
    const done = await load(handle), check = done.check;
    await showSaes();
    const checked = check ? facts([["tokens of the probe text", check.n_tokens], ["L0", check.l0], ["explained variance", check.explained_variance], ["CE score", check.ce_score], ["verdict", check.verdict?.text ?? check.verdict?.level]]) : "";
    loaded.append(el("div", { class: "panel" }, evidence(done), checked));
    showRest();
  });
}

async function showJobs() {
  const told = await call("job_status");
  const rows = told.jobs.slice(0, 8).map((row) => [el("strong", {}, row.state), " ", row.tool === "train_sae" ? el("a", { href: `trainings?${new URLSearchParams({ job: row.job_id })}` }, row.job_id) : row.job_id, " ", bdi(row.message)]);
  return [...warned(told), listOf(rows, "None.")];
}

async function showResults() {
  const told = await call("results", { limit: 8 });
  return [...warned(told), listOf(told.results.map((row) => [el("strong", {}, row.tool), " ", toResult(row.result_id), el("span", { class: "quiet" }, ` ${when(row.created)}`), el("p", {}, bdi(row.says))]), "None yet.")];
}

async function showMachine() {
  const told = await ask("machine");
  return facts([["version", told.version], ["device", told.device], ["memory for models", mb(told.memory.budget)], ["in use", mb(told.memory.used)], ["free", mb(told.memory.free)], ["SAEs on disk", told.n_cached || null]]);
}

function showRest() {
  within(jobs, "Looking\u2026", showJobs);
  within(last, "Looking\u2026", showResults);
  within(memory, "Looking; the first time loads PyTorch, which takes 5 to 15 s.", showMachine);
}

within(loaded, "Looking\u2026", showSaes);
showRest();
