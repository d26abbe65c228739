import { asked, bdi, call, choice, el, evidence, field, form, main, section, turn, within } from "./window.js";
import { explained } from "./results.js";

const prompt = el("textarea", { required: true, rows: "3", maxlength: "20000" });
const target = el("input", { placeholder: "the likeliest", maxlength: "200" });
const against = el("input", { placeholder: "none", maxlength: "200" });
const out = el("div"), circuit = el("div");
prompt.value = asked.get("prompt") ?? "";

async function explain(given) {
  const done = await call("attribute_logit", given);
  const button = el("button", { type: "button", onclick: () => trace(given) }, "Trace its circuit");
  return [explained(done, given), el("p", {}, button, el("span", { class: "quiet" }, " Through which features it comes about; it takes longer."))];
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
