// The result of a tool: a text, a prediction, an edit, steered texts, a claim, or a job whose news are asked for while it runs.
const APP = { name: "saescope-result", tool: "a tool of saescope" };
const WAIT_S = 5;
const TITLES = [["tokens", "A text"], ["table", "Steering"], ["baseline", "Steering"], ["target", "A prediction"], ["effect", "An edit"], ["looks", "A claim"], ["document", "A kept result"], ["state", "A job"]];
const byId = (id) => document.getElementById(id);
const say = (text) => { if (byId("status").textContent !== text) byId("status").textContent = text; };
let given = {}, asking = 0;

function hear(heard) {
  given = heard;
  byId("where").textContent = visible(heard.prompt ?? heard.text ?? heard.job_id ?? heard.name ?? heard.result_id ?? "");
}

const errorOf = (result) => visible((result.content ?? []).map((block) => block.text ?? "").join(" ") || "No result.");

function receive(result) {
  const done = result.structuredContent;
  asking += 1; // what an earlier result asked for comes too late
  say(result.isError || !done ? errorOf(result) : visible(done.summary ?? ""));
  if (result.isError || !done) return;
  byId("title").textContent = TITLES.find(([name]) => done[name] !== undefined)?.[1] ?? "Result";
  if (done.job_id && canCall) follow(done, asking);
  else byId("main").replaceChildren(...shown(done));
}

// What was said on top is not said again. A result that was kept stands in the one that brings it back.
const shown = (done) => (done.document ? [resultOf(done.document, done.arguments)] : [resultOf({ ...done, summary: "" }, given)]);

// What job_status says of a run as the curves are drawn from it; its numbers are of points along the way.
function runOf(job) {
  const { latest, history = [] } = job.metrics ?? {}, rows = latest && history.at(-1)?.step !== latest.step ? [...history, latest] : history;
  const fields = ["step", "loss", "l0", "explained_variance", "dead_share", "lr"];
  return { job_id: job.job_id, name: "", curves: { fields, series: { "": rows.map((row) => fields.map((name) => row[name])) } }, densities: {} };
}

async function jobOf(job_id, wait_s) {
  const result = await ask("tools/call", { name: "job_status", arguments: { job_id, wait_s, response_format: "detailed" } });
  if (result.isError || !result.structuredContent) throw new Error(errorOf(result));
  return result.structuredContent;
}

// A run, and another over it where the call named one, until its end, as long as somebody sees it.
async function follow(started, mine) {
  byId("main").replaceChildren();
  try {
    const other = given.over ? [runOf(await jobOf(given.over, 0))] : [];
    for (let wait_s = 0; ; wait_s = WAIT_S) {
      const job = await jobOf(started.job_id, wait_s);
      if (asking !== mine) return;
      drawJob(job, other);
      if (!["queued", "running"].includes(job.state)) return;
      while (document.hidden) await new Promise((go) => document.addEventListener("visibilitychange", go, { once: true }));
    }
  } catch (error) {
    say(`The run cannot be followed through this program. ${error.message}`);
  }
}

// What a finished job of another kind came to is shown as its own result.
function drawJob(job, other) {
  say(`The job is ${job.state}.`);
  byId("title").textContent = job.tool === "train_sae" ? "A training" : "A job";
  if (job.result && job.tool !== "train_sae") return byId("main").replaceChildren(resultOf(job.result, given));
  const curves = job.tool === "train_sae" ? el("div", { class: "charts" }, ...trained([runOf(job), ...other], "")) : "";
  const lines = job.members?.length ? el("details", {}, el("summary", {}, `Its ${job.members.length} SAEs`), el("ul", {}, ...job.members.map((line) => el("li", {}, bdi(line))))) : "";
  const step = job.n_steps ? `${number(job.step ?? 0)} of ${number(job.n_steps)}` : null;
  return byId("main").replaceChildren(evidence(job), facts([["step", step], ["tokens", job.n_tokens], ["seconds left", job.eta_s], ["SAE", job.sae]]), lines, curves);
}
