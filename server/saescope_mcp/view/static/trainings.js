import { asked, bdi, call, el, field, main, number, refusal, say, section } from "./window.js";
import { chart } from "./chart.js";

const SHOWN = ["explained_variance", "l0", "dead_share", "loss"];
const WORDS = { explained_variance: "explained variance", l0: "L0", dead_share: "share of dead features", loss: "loss" };
const jobs = el("div"), curves = el("div"), state = el("div", { "aria-live": "off" });
const chosen = [el("select"), el("select")];
let events = null, known = "";

function options(rows) {
  const runs = rows.filter((row) => row.tool === "train_sae");
  const key = runs.map((row) => row.job_id).join();
  if (key === known) return;
  known = key;
  chosen.forEach((select, at) => {
    const was = select.value || (at === 0 ? asked.get("job") ?? runs[0]?.job_id ?? "" : asked.get("beside") ?? "");
    select.replaceChildren(el("option", { value: "" }, "none"), ...runs.map((row) => el("option", { value: row.job_id, selected: row.job_id === was }, row.job_id)));
  });
  if (runs.length) listen();
}

function row(job) {
  const stop = job.state === "running" || job.state === "queued" ? el("button", { type: "button", onclick: () => call("cancel_job", { job_id: job.job_id }).catch((error) => jobs.append(refusal(error))) }, "Stop") : "";
  return el("li", {}, el("strong", {}, job.state), " ", job.job_id, " ", bdi(job.message), " ", stop);
}

function drawn(named) {
  const runs = named.filter((job) => job.job_id);
  const names = new Set(runs.flatMap((job) => Object.keys(job.metrics?.latest ?? {})));
  const shown = SHOWN.filter((name) => names.has(name));
  const points = (job, name) => {
    const history = job.metrics?.history ?? [], latest = job.metrics?.latest;
    const all = latest && history.at(-1)?.step !== latest.step ? [...history, latest] : history;
    return all.filter((each) => Number.isFinite(each[name])).map((each) => [each.step, each[name]]);
  };
  curves.replaceChildren(...shown.map((name) => chart(runs.map((job) => ({ name: job.job_id, points: points(job, name) })), WORDS[name])));
  state.replaceChildren(...runs.map((job) => el("p", {}, bdi(job.summary ?? job.error?.message ?? ""))), ...named.filter((job) => !job.job_id).map((job) => el("p", { class: "refused" }, bdi(job.message ?? ""))));
}

function heard(event) {
  const told = JSON.parse(event.data);
  const list = told.jobs.length ? el("ul", { class: "rows" }, ...told.jobs.map(row)) : el("p", { class: "quiet" }, "None. A training starts with train_sae, or saescope train-sae.");
  if (!jobs.contains(document.activeElement) || !jobs.childElementCount) jobs.replaceChildren(list);
  options(told.jobs);
  drawn(told.named);
}

function listen() {
  events?.close();
  const named = chosen.map((select) => select.value).filter(Boolean);
  events = new EventSource(`events?${new URLSearchParams(named.map((job) => ["job", job]))}`);
  events.addEventListener("message", heard);
  events.addEventListener("error", () => say("The window does not answer; it is asked again."));
}

chosen.forEach((select) => select.addEventListener("change", listen));
main.append(section("Curves", el("form", { onsubmit: (event) => event.preventDefault() }, field("Run", chosen[0]), field("Over it", chosen[1])), state, curves), section("Jobs", jobs));
addEventListener("pagehide", () => events?.close());
listen();
