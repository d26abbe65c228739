import { asked, bdi, call, el, field, main, refusal, say, section, warned } from "./window.js";
import { MEDIAN, membersOf, trained } from "./results.js";

const jobs = el("div"), curves = el("div", { class: "charts" }), state = el("div", { "aria-live": "off" });
const chosen = [el("select"), el("select")], member = el("select");
const ofMember = field("SAE of the set", member);
const EVERY_MS = 15000;
let events = null, known = "", told = null, said = { states: "", at: 0 };

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

function about(run) {
  const links = run.saes.slice(0, 4).flatMap((handle) => [" ", el("a", { href: `features?${new URLSearchParams({ sae: handle })}` }, handle)]);
  const lines = run.members.length ? el("details", {}, el("summary", {}, `Its ${run.members.length} SAEs`), el("ul", {}, ...run.members.map((line) => el("li", {}, bdi(line))))) : "";
  return el("div", {}, el("p", {}, el("strong", {}, run.name || run.job_id), ": ", bdi(run.summary), ...links), ...warned(run), lines);
}

function drawn() {
  const runs = told.named.filter((run) => run.job_id), sets = [...new Set(runs.flatMap(membersOf))];
  ofMember.hidden = !sets.length;
  if (sets.join() !== member.dataset.of) {
    member.dataset.of = sets.join();
    member.replaceChildren(...["", ...sets].map((name) => el("option", { value: name, selected: name === member.value }, name || MEDIAN)));
  }
  state.replaceChildren(...runs.map(about), ...told.named.filter((run) => !run.job_id).map((run) => el("p", { class: "refused" }, bdi(run.message ?? ""))));
  curves.replaceChildren(...trained(runs, member.value));
}

// Whoever listens is told of a new state at once, of progress now and then.
function tell(runs) {
  const states = runs.map((run) => run.state).join(), now = performance.now();
  if (states === said.states && (now - said.at < EVERY_MS || !/running|queued/.test(states))) return;
  said = { states, at: now };
  say(runs.map((run) => `${run.name || run.job_id}: ${run.summary}`).join(" "));
}

function heard(event) {
  told = JSON.parse(event.data);
  const when = new Map(told.runs.map((run) => [run.job_id, run.created]));
  const list = told.jobs.length ? el("ul", { class: "rows" }, ...told.jobs.map((job) => row(job, when.get(job.job_id)))) : el("p", { class: "quiet" }, "None. A training starts with train_sae, or saescope train-sae.");
  if (!jobs.contains(document.activeElement) || !jobs.childElementCount) jobs.replaceChildren(...warned(told), list);
  options(told.runs);
  drawn();
  tell(told.named.filter((run) => run.job_id));
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
