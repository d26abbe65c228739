import { asked, bdi, call, choice, el, evidence, facts, field, form, main, named, number, section, table, toFeature, token, turn, within } from "./window.js";
import { svg } from "./chart.js";

const prompt = el("textarea", { required: true, rows: "3", maxlength: "20000" });
const target = el("input", { placeholder: "the likeliest", maxlength: "200" });
const against = el("input", { placeholder: "none", maxlength: "200" });
const MEASURES = { logprob: "log-probability (nats)", logit: "logit", difference: "difference of two logits" };
const out = el("div"), circuit = el("div");
prompt.value = asked.get("prompt") ?? "";

// What is estimated above, what was measured below, to one scale and from one zero.
function bar(row, top) {
  const rect = (kind, value, y) => svg("rect", { class: kind, x: value < 0 ? 100 + (100 * value) / top : 100, width: Math.abs((100 * value) / top), y, height: 7 });
  const shapes = [rect("estimate", row.attribution, 1)];
  if (row.measured_effect !== null) shapes.push(rect("measured", row.measured_effect, 9));
  return svg("svg", { class: "bar", viewBox: "0 0 200 17", preserveAspectRatio: "none", "aria-hidden": "true" }, ...shapes, svg("line", { x1: 100, x2: 100, y1: 0, y2: 17 }));
}

function rows(done, sae) {
  const top = Math.max(1e-9, ...done.features.flatMap((row) => [Math.abs(row.attribution), Math.abs(row.measured_effect ?? 0)]));
  return table("Features of the prediction", ["feature", "at", "estimated", "measured", "", "label"], done.features.map((row) => [el("td", { class: "n" }, toFeature(row.sae ?? sae, row.feature)), el("td", {}, token(row.token), el("span", { class: "quiet" }, ` ${row.pos}`)), el("td", { class: "n" }, number(row.attribution)), el("td", { class: "n" }, number(row.measured_effect)), el("td", { class: "size" }, bar(row, top)), el("td", {}, named(row))]));
}

function joint(done) {
  if (!done.joint) return "";
  const { measured_effect: effect, control } = done.joint;
  const beside = control.n ? `; as many random pairs take ${number(control.mean)} (sd ${number(control.sd)}, n ${control.n}, p ${number(control.p)}): ${control.outside ? "outside" : "not outside"} of these` : "; no control was asked for";
  return el("p", {}, `All listed pairs ablated at once take ${number(effect)}${beside}.`);
}

// How far the estimates can be trusted.
const checks = (done) => facts([["estimates and measurements agree (correlation)", done.agreement?.pearson], ["of so many pairs", done.agreement?.n], ["share of the SAE's error", done.error_share], ["completeness", done.completeness]]);

async function explain(given) {
  const done = await call("attribute_logit", given);
  const what = el("p", {}, "Predicted: ", token(done.target.token), ` (probability ${number(done.target.prob)}, rank ${done.target.rank})`, ...(done.against ? [" against ", token(done.against.token)] : []), `. Effects are on the ${MEASURES[done.measure] ?? done.measure}: blue estimated by gradient, orange measured by ablation.`);
  const button = el("button", { type: "button", onclick: () => trace(given) }, "Trace its circuit");
  return [section("Which features it rests on", what, rows(done, given.sae), joint(done), checks(done), evidence(done)), el("p", {}, button, el("span", { class: "quiet" }, " Through which features it comes about; it takes longer."))];
}

function trace(given) {
  const targets = given.target ? [given.target] : [];
  return within(circuit, "Tracing the circuit\u2026", async () => {
    const done = await call("trace_circuit", { sae: given.sae, prompt: given.prompt, targets, against: given.against });
    const page = `graph?${new URLSearchParams({ name: done.page.split("/").pop() })}`;
    return section("Its circuit", el("details", {}, el("summary", {}, "In words"), ...done.reading.split("\n").map((line) => el("p", {}, bdi(line)))), el("p", {}, el("a", { href: page }, "The circuit on a page of its own")), el("iframe", { class: "page", src: page, title: "The circuit", sandbox: "allow-scripts" }), evidence(done));
  });
}

async function start() {
  const sae = await choice();
  if (!sae) return;
  const submit = () => {
    const given = { sae: sae.select.value, prompt: prompt.value, target: target.value, against: against.value };
    turn(circuit); // a circuit of an earlier question is not shown any more
    circuit.replaceChildren();
    return within(out, "Explaining; every listed feature is ablated\u2026", () => explain(given));
  };
  main.append(
    form(submit, el("label", { class: "field wide" }, el("span", {}, "Prompt"), prompt), field("SAE", sae.select), field("Predicted token (a leading space counts)", target), field("Against the token", against), el("button", {}, "Explain")),
    out, circuit,
  );
}

start();
