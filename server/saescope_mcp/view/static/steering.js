import { asked, call, choice, el, evidence, facts, field, form, main, number, refusal, section, toFeature, within } from "./window.js";

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
const textOut = (text) => el("p", { class: "panel text-out", dir: "auto" }, text);

function column(title, each) {
  const { concept_score: share, concept_logprob: rise, perplexity, repetition, kl } = each.metrics;
  const said = rise === null || rise === undefined ? null : typeof rise === "number" ? rise : `${number(rise.change)} (${number(rise.low)} to ${number(rise.high)})`;
  return el("div", {}, el("h3", {}, title), textOut(each.text), facts([["concept tokens", share], ["change of their log probability", said], ["perplexity", perplexity], ["repetition", repetition], ["KL", kl]]));
}

async function once(given, number_, strength) {
  const done = await call("steer_generate", { ...given, features: [{ feature: number_, strength }] });
  const columns = [column("Plain", done.baseline), ...done.steered.map((each) => column("Steered", each)), ...done.controls.map((each, at) => column(`Control ${at + 1}: a random feature`, each))];
  const verdict = el("p", {}, "Feature ", toFeature(given.sae, number_), ` at strength ${strength}: `, el("strong", {}, done.verdict || "no verdict"), ".");
  return section("Side by side", verdict, el("div", { class: "beside" }, ...columns), evidence(done));
}

async function sweep(given, number_, several) {
  const done = await call("steer_generate", { ...given, features: [{ feature: number_ }], strengths: several });
  const shown = el("div", { class: "beside", "aria-live": "polite" });
  const show = (at) => {
    const row = done.table[at], p = row.p === null ? null : `${number(row.p)} beside 19 random features`;
    slider.setAttribute("aria-valuetext", `strength ${row.strength}`);
    const control = el("button", { type: "button", onclick: () => run(given, number_, [row.strength]) }, "Beside texts of random features");
    shown.replaceChildren(el("div", {}, el("h3", {}, "Plain"), textOut(done.baseline.text)), el("div", {}, el("h3", {}, `Strength ${row.strength}: ${row.verdict}`), textOut(row.text), facts([["change of the concept's log probability", row.concept_logprob], ["p", p], ["perplexity", row.perplexity], ["repetition", row.repetition], ["KL", row.kl]]), control));
  };
  const slider = el("input", { type: "range", min: "0", max: String(done.table.length - 1), value: "0", oninput: () => show(Number(slider.value)) });
  show(0);
  return section("Over strengths", el("p", {}, "Feature ", toFeature(given.sae, number_), "."), field("Strength", slider), shown, evidence(done));
}

function run(given, number_, several) {
  return within(out, "Generating: plain, steered and with random features\u2026", () => (several.length > 1 ? sweep(given, number_, several) : once(given, number_, several[0])));
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
