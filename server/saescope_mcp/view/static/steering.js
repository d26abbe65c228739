import { asked, call, choice, el, field, form, main, refusal, within } from "./window.js";
import { steered, swept } from "./results.js";

const prompt = el("textarea", { required: true, rows: "3", maxlength: "20000" });
const feature = el("input", { type: "number", min: "0", step: "1", required: true });
const strengths = el("input", { required: true, value: "1", maxlength: "100" });
const concept = el("textarea", { rows: "2", maxlength: "1000" });
const tokens = el("input", { type: "number", min: "1", max: "256", value: "32" });
const out = el("div");
prompt.value = asked.get("prompt") ?? "";
feature.value = asked.get("feature") ?? "";

const listed = () => strengths.value.split(/[\s,;]+/).filter(Boolean).map(Number);
const lines = (text) => text.split("\n").filter((line) => line.trim());

async function once(given, features) {
  return steered(await call("steer_generate", { ...given, features }), { ...given, features });
}

async function sweep(given, features, strengths) {
  const done = await call("steer_generate", { ...given, features, strengths });
  const beside = (row) => el("button", { type: "button", onclick: () => run(given, features[0].feature, [row.strength]) }, "Beside texts of random features");
  return swept(done, { ...given, features }, beside);
}

function run(given, chosen, several) {
  return within(out, "Generating: plain, steered and with random features\u2026", () => (several.length > 1 ? sweep(given, [{ feature: chosen }], several) : once(given, [{ feature: chosen, strength: several[0] }])));
}

function submit(sae) {
  const several = listed();
  if (several.some((each) => !Number.isFinite(each)) || !several.length) {
    out.replaceChildren(refusal(new Error(`Strengths are numbers, such as 1, or 0.5 1 2; got ${strengths.value}.`)));
    return undefined;
  }
  return run({ sae, prompt: prompt.value, max_new_tokens: Number(tokens.value), concept_tokens: lines(concept.value) }, Number(feature.value), several);
}

async function start() {
  const sae = await choice();
  if (!sae) return;
  main.append(
    form(() => submit(sae.select.value), el("label", { class: "field wide" }, el("span", {}, "Prompt"), prompt), field("SAE", sae.select), field("Feature", feature), field("Strength, or several", strengths), field("Tokens to generate", tokens), field("Tokens of the concept, one a line (a leading space counts)", concept), el("button", {}, "Generate")),
    el("p", { class: "quiet" }, "Strength 1 adds what the feature has where it fires strongly. Without tokens of a concept there is no verdict."),
    out,
  );
}

start();
