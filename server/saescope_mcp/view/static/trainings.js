import { asked, bdi, call, el, field, main, number, refusal, say, section, warned } from "./window.js";
import { chart, histogram } from "./chart.js";

const WORDS = { explained_variance: "Explained variance", l0: "L0", dead_share: "Share of dead features", loss: "Loss", lr: "Learning rate" };
const MEDIAN = "median of all";
const jobs = el("div"), curves = el("div", { class: "charts" }), state = el("div", { "aria-live": "off" });
const chosen = [el("select"), el("select")], member = el("select");
const ofMember = field("SAE of the set", member);
let events = null, known = "", told = null;

const title = (run) => `${run.created} ${run.name || run.job_id}`;

function options(runs) {
  const key = runs.map((run) => run.job_id).join();
  if (key === known) return;
  known = key;
  const before = chosen.map((select) => select.value).join();
  chosen.forEach((select, at) => {
    const was = select.value || (at === 0 ? asked.get("job") ?? runs[0]?.job_id ?? "" : asked.get("beside") ?? "");
    select.replaceChildren(el("option", { value: "" }, "none"), ...runs.map((run) => el("option", { value: run.job_id, selected: run.job_id === was }, title(run))));
  });
  if (chosen.map((select) => select.value).join() !== before) listen();
}

function row(job, created) {
  const stop = job.state === "running" || job.state === "queued" ? el("button", { type: "button", "aria-label": `Stop ${job.job_id}`, onclick: () => call("cancel_job", { job_id: job.job_id }).catch((error) => jobs.append(refusal(error))) }, "Stop") : "";
  const name = job.tool === "train_sae" ? el("a", { href: `trainings?${new URLSearchParams({ job: job.job_id })}` }, job.job_id) : job.job_id;
  return el("li", {}, el("strong", {}, job.state), " ", name, el("span", { class: "quiet" }, ` ${created ?? ""} `), bdi(job.message), " ", stop);
}

// [[step, value], ...] of one SAE of a run; a run of one SAE has the name "" for it.
function points(run, name, of) {
  const at = run.curves.fields.indexOf(name), rows = run.curves.series[of] ?? [];
  return at < 0 ? [] : rows.filter((each) => Number.isFinite(each[at])).map((each) => [each[0], each[at]]);
}

const members = (run) => Object.keys(run.curves.series).filter((name) => name);

function about(run) {
  const links = run.saes.slice(0, 4).flatMap((handle) => [" ", el("a", { href: `features?${new URLSearchParams({ sae: handle })}` }, handle)]);
  const lines = run.members.length ? el("details", {}, el("summary", {}, `Its ${run.members.length} SAEs`), el("ul", {}, ...run.members.map((line) => el("li", {}, bdi(line))))) : "";
  return el("div", {}, el("p", {}, el("strong", {}, run.name || run.job_id), ": ", bdi(run.summary), ...links), ...warned(run), lines);
}

function densities(run, of) {
  const counted = run.densities[of] ?? run.densities[members(run)[0]];
  if (!counted) return "";
  const what = of || members(run)[0] || run.name || run.job_id;
  return histogram(counted.bins, counted.n_never, `How often features of ${what} fired in the last ${number(counted.n_tokens)} tokens of the training: how many at which share of tokens.`);
}

function drawn() {
  const runs = told.named.filter((run) => run.job_id), sets = [...new Set(runs.flatMap(members))];
  ofMember.hidden = !sets.length;
  if (sets.join() !== member.dataset.of) {
    member.dataset.of = sets.join();
    member.replaceChildren(...["", ...sets].map((name) => el("option", { value: name, selected: name === member.value }, name || MEDIAN)));
  }
  const of = (run) => (members(run).includes(member.value) ? member.value : "");
  const names = Object.keys(WORDS).filter((name) => runs.some((run) => points(run, name, of(run)).length));
  const called = (run) => `${run.name || run.job_id}${members(run).length ? ` (${of(run) || MEDIAN})` : ""}`;
  const behind = (name) => runs.flatMap((run) => members(run).map((each) => ({ name: each, points: points(run, name, each) })));
  state.replaceChildren(...runs.map(about), ...told.named.filter((run) => !run.job_id).map((run) => el("p", { class: "refused" }, bdi(run.message ?? ""))));
  curves.replaceChildren(...names.map((name) => chart(runs.map((run) => ({ name: called(run), points: points(run, name, of(run)) })), WORDS[name], behind(name))), ...runs.map((run) => densities(run, of(run))).filter(Boolean));
  if (runs.length && !names.length) curves.append(el("p", { class: "quiet" }, "No point yet: curves begin with the first steps."));
}

function heard(event) {
  told = JSON.parse(event.data);
  const when = new Map(told.runs.map((run) => [run.job_id, run.created]));
  const list = told.jobs.length ? el("ul", { class: "rows" }, ...told.jobs.map((job) => row(job, when.get(job.job_id)))) : el("p", { class: "quiet" }, "None. A training starts with train_sae, or saescope train-sae.");
  if (!jobs.contains(document.activeElement) || !jobs.childElementCount) jobs.replaceChildren(...warned(told), list);
  options(told.runs);
  drawn();
}

function listen() {
  events?.close();
  const named = chosen.map((select) => select.value).filter(Boolean);
  events = new EventSource(`events?${new URLSearchParams(named.map((job) => ["job", job]))}`);
  events.addEventListener("message", heard);
  events.addEventListener("error", () => say("The window does not answer; it is asked again."));
}

chosen.forEach((select) => select.addEventListener("change", listen));
member.addEventListener("change", () => told && drawn());
ofMember.hidden = true;
main.append(section("Curves", el("form", { onsubmit: (event) => event.preventDefault() }, field("Run", chosen[0]), field("Over it", chosen[1]), ofMember), state, curves), section("Jobs", jobs));
addEventListener("pagehide", () => events?.close());
listen();
