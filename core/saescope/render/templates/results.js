// What results of tools show, in the window and in apps: a prediction, an edit, steered texts, trainings, a claim.
import { bdi, el, evidence, facts, field, named, number, section, table, toFeature, toResult, token, visible } from "./parts.js";
import { chart, histogram, svg } from "./chart.js";

const MEASURES = { logprob: "log-probability (nats)", logit: "logit", difference: "difference of two logits" };
const measureOf = (done) => MEASURES[done.measure ?? "logprob"];
const isNumber = (value) => Number.isFinite(value);
const textOut = (text) => el("p", { class: "panel text-out", dir: "auto" }, text);

const LEVELS = 8;

// Tokens coloured by a value each, to the scale of the highest, which comes back; one without a value stays plain.
export function colour(buttons, values) {
  const peak = Math.max(0, ...values);
  buttons.forEach((button, at) => {
    button.className = values[at] > 0 ? `a${Math.min(LEVELS, Math.ceil((LEVELS * values[at]) / peak))}` : "";
    button.title = values[at] > 0 ? number(values[at]) : "";
  });
  return peak;
}

// A token as a button; `show` is called when it is pointed at, or reached by keyboard.
export const tokenButton = (row, show) => el("button", { type: "button", onmouseenter: show, onfocus: show, onclick: show }, visible(row.token));

// The features of one token; `choose` colours the text by one of them.
export function featuresAt(row, sae, choose) {
  const by = (feature) => el("button", { type: "button", "aria-label": `colour by feature ${feature}`, onclick: () => choose(feature) }, "colour by it");
  const rest = row.l0 > row.features.length ? `, of which the strongest ${row.features.length} are listed` : "";
  const cells = (each) => [el("td", { class: "n" }, toFeature(sae, each.feature)), el("td", { class: "n" }, number(each.activation)), el("td", {}, by(each.feature))];
  return [
    el("p", {}, "Token ", token(row.token), ` at position ${row.pos}: ${row.l0} features fire${rest}.`),
    table("Features of the token", ["feature", "activation", ""], row.features.map(cells)),
  ];
}

export const POINT = "Point at a token, or go to it with the Tab key, to see its features.";

// One text as one SAE reads it: of each token what the result lists.
function tokensOf(rows, sae, title) {
  const says = el("p", { class: "quiet" }), detail = el("div", { class: "panel", "aria-live": "polite" }, el("p", { class: "quiet" }, POINT));
  const buttons = rows.map((row, at) => tokenButton(row, () => {
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(index === at)));
    detail.replaceChildren(...featuresAt(row, sae, choose));
  }));
  const at = (row, chosen) => row.features.find((each) => chosen === null || each.feature === chosen)?.activation ?? 0;
  const choose = (chosen) => {
    colour(buttons, rows.map((row) => at(row, chosen)));
    says.textContent = chosen === null ? "Coloured by the strongest feature of each token." : `Coloured by feature ${chosen}, where the result lists it.`;
  };
  choose(null);
  return section(title, says, el("p", { class: "tokens", dir: "ltr" }, ...buttons), detail);
}

// Texts as SAEs read them, a page of tokens.
function encoded(done, { sae }) {
  const groups = new Map();
  for (const row of done.tokens) {
    const key = JSON.stringify([row.sae ?? sae ?? "", row.text_index ?? 0]);
    groups.set(key, [...(groups.get(key) ?? []), row]);
  }
  const title = (handle, index) => (groups.size > 1 ? `${visible(handle)}: text ${index + 1}` : "The text, token by token");
  const views = [...groups].map(([key, rows]) => {
    const [handle, index] = JSON.parse(key);
    return tokensOf(rows, handle, title(handle, index));
  });
  return el("div", {}, el("div", { class: "beside" }, ...views), evidence(done));
}

// What is estimated above, what was measured below, to one scale and from one zero.
function bar(values, top) {
  const rect = ([kind, value], at) => svg("rect", { class: kind, x: value < 0 ? 100 + (100 * value) / top : 100, width: Math.abs((100 * value) / top), y: 1 + 8 * at, height: 7 });
  const shapes = values.map((each, at) => (isNumber(each[1]) ? rect(each, at) : ""));
  return svg("svg", { class: "bar", viewBox: "0 0 200 17", preserveAspectRatio: "none", "aria-hidden": "true" }, ...shapes, svg("line", { x1: 100, x2: 100, y1: 0, y2: 17 }));
}

const highest = (values) => Math.max(1e-9, ...values.filter(isNumber).map(Math.abs));

function contributions(done, { sae }) {
  const top = highest(done.features.flatMap((row) => [row.attribution, row.measured_effect])), labels = done.features.some((row) => row.label);
  const cells = (row) => [el("td", { class: "n" }, toFeature(row.sae || sae, row.feature)), el("td", {}, token(row.token), el("span", { class: "quiet" }, ` ${row.pos}`)), el("td", { class: "size" }, bar([["estimate", row.attribution], ["measured", row.measured_effect]], top)), el("td", { class: "n" }, number(row.attribution)), el("td", { class: "n" }, number(row.measured_effect)), labels ? el("td", {}, named(row)) : ""];
  return table("Features of the prediction", ["feature", "at", "both as bars", "estimated", "measured", ...(labels ? ["label"] : [])], done.features.map(cells));
}

function beside(control, what) {
  if (!control?.n) return "; no control was asked for";
  return `; ${what} ${number(control.mean)} (sd ${number(control.sd)}, n ${control.n}, p ${number(control.p)}): ${control.outside ? "outside" : "not outside"} of these`;
}

// How far the estimates can be trusted.
const checks = (done) => facts([["estimates and measurements agree (correlation)", done.agreement?.pearson], ["of so many pairs", done.agreement?.n], ["share of the SAE's error", done.error_share], ["completeness", done.completeness]]);

export function explained(done, given) {
  const what = el("p", {}, "Predicted: ", token(done.target.token), ` (probability ${number(done.target.prob)}, rank ${done.target.rank})`, ...(done.against ? [" against ", token(done.against.token)] : []), `. Effects are on the ${measureOf(done)}: blue estimated by gradient, orange measured by ablation.`);
  const joint = done.joint ? el("p", {}, `All listed pairs ablated at once take ${number(done.joint.measured_effect)}${beside(done.joint.control, "as many random pairs take")}.`) : "";
  return section("Which features it rests on", what, contributions(done, given), joint, checks(done), evidence(done));
}

function likely(title, said) {
  return el("div", {}, el("h3", {}, title), table(`${title}: the likeliest tokens`, ["token", "probability"], (said.top ?? []).map((row) => [el("td", {}, token(row.token)), el("td", { class: "n" }, number(row.prob))])), el("p", { class: "quiet" }, token(said.target.token), ` has ${number(said.target.prob)}, rank ${said.target.rank}`));
}

function onPrompts(rows) {
  const top = highest(rows.map((row) => row.effect));
  return table("Effect on each prompt", ["target", "effect", "as a bar"], rows.map((row) => [el("td", {}, token(row.target)), el("td", { class: "n" }, number(row.effect)), el("td", { class: "size" }, bar([["measured", row.effect]], top))]));
}

// The features that a call named, with what it did to them; else those that its result names.
function featuresOf(done, { sae, edits, features = edits ?? done.features ?? [] }) {
  const how = ({ strength, mode }) => `${isNumber(strength) ? ` at strength ${number(strength)}` : ""}${mode && mode !== "add" ? ` (${mode})` : ""}`;
  return [features.length > 1 ? "Features " : "Feature ", ...features.flatMap((row, at) => [at ? ", " : "", toFeature(row.sae || sae, row.feature), how(row)])];
}

// What an edit did to the next token.
export function edited(done, given) {
  const what = el("p", {}, ...featuresOf(done, given), `: the edit changes the ${measureOf(done)} by ${number(done.effect)}${beside(done.control, "random features edited alike change it by")}.`);
  const sides = done.before && done.after ? el("div", { class: "beside" }, likely("Before", done.before), likely("After", done.after)) : "";
  return section("What the edit does", what, sides, done.on_prompts?.length ? onPrompts(done.on_prompts) : "", facts([["KL", done.kl], ["change of the logit", done.delta_logit], ["change of the log-probability", done.delta_logprob]]), evidence(done));
}

const change = (rise) => (isNumber(rise) || !rise ? rise : `${number(rise.change)} (${number(rise.low)} to ${number(rise.high)})`);

function arm(title, each) {
  const { concept_score: share, concept_logprob: rise, perplexity, repetition, kl } = each.metrics ?? {};
  return el("div", {}, el("h3", {}, title), textOut(each.text), facts([["concept tokens", share], ["change of their log probability", change(rise)], ["perplexity", perplexity], ["repetition", repetition], ["KL", kl]]));
}

// A text as it is, steered, and with random features instead.
export function steered(done, given) {
  const several = done.steered?.length > 1;
  const arms = [arm("Plain", done.baseline), ...(done.steered ?? []).map((each, at) => arm(several ? `Steered ${at + 1}` : "Steered", each)), ...(done.controls ?? []).map((each, at) => arm(`Control ${at + 1}: a random feature`, each))];
  const verdict = done.features?.length ? el("p", {}, ...featuresOf(done, given), ": ", el("strong", {}, done.verdict || "no verdict"), ".") : "";
  return section("Side by side", verdict, el("div", { class: "beside" }, ...arms), evidence(done));
}

// A row for each strength, by a slider; `more` makes what else can be done with one.
export function swept(done, given, more = () => "") {
  const shown = el("div", { class: "beside", "aria-live": "polite" });
  const show = (at) => {
    const row = done.table[at], p = isNumber(row.p) ? `${number(row.p)} beside 19 random features` : null;
    slider.setAttribute("aria-valuetext", `strength ${row.strength}`);
    shown.replaceChildren(el("div", {}, el("h3", {}, "Plain"), textOut(done.baseline.text)), el("div", {}, el("h3", {}, `Strength ${row.strength}: ${row.verdict || "no verdict"}`), textOut(row.text), facts([["change of the concept's log probability", change(row.concept_logprob)], ["p", p], ["perplexity", row.perplexity], ["repetition", row.repetition], ["KL", row.kl]]), more(row)));
  };
  const slider = el("input", { type: "range", min: "0", max: String(done.table.length - 1), value: "0", oninput: () => show(Number(slider.value)) });
  show(0);
  return section("Over strengths", el("p", {}, ...featuresOf(done, given), "."), field("Strength", slider), shown, evidence(done));
}

const CURVES = { explained_variance: "Explained variance", l0: "L0", dead_share: "Share of dead features", loss: "Loss", lr: "Learning rate" };
export const MEDIAN = "median of all";

// [[step, value], ...] of one SAE of a run; a run of one SAE has the name "" for it.
function points(run, name, of) {
  const at = run.curves.fields.indexOf(name), rows = run.curves.series[of] ?? [];
  return at < 0 ? [] : rows.filter((each) => isNumber(each[at])).map((each) => [each[0], each[at]]);
}

export const membersOf = (run) => Object.keys(run.curves.series).filter((name) => name);

function densities(run, of) {
  const counted = run.densities[of] ?? run.densities[membersOf(run)[0]];
  if (!counted) return "";
  const what = of || membersOf(run)[0] || run.name || run.job_id;
  return histogram(counted.bins, counted.n_never, `How often features of ${what} fired in the last ${number(counted.n_tokens)} tokens of the training: how many at which share of tokens.`);
}

// The curves of up to two runs over each other, of their SAE `member` where they have it, and how often features fired.
export function trained(runs, member) {
  const of = (run) => (membersOf(run).includes(member) ? member : "");
  const names = Object.keys(CURVES).filter((name) => runs.some((run) => points(run, name, of(run)).length));
  const called = (run) => `${run.name || run.job_id}${membersOf(run).length ? ` (${of(run) || MEDIAN})` : ""}`;
  const behind = (name) => runs.flatMap((run) => membersOf(run).map((each) => ({ name: each, points: points(run, name, each) })));
  const charts = names.map((name) => chart(name, CURVES[name], runs.map((run) => ({ name: called(run), points: points(run, name, of(run)) })), behind(name)));
  if (runs.length && !names.length) return [el("p", { class: "quiet" }, "No point yet: curves begin with the first steps.")];
  return [...charts, ...runs.map((run) => densities(run, of(run))).filter(Boolean)];
}

const checked = (label, rows) => table(label, ["result", "it", "level", "why"], rows.map((row) => [el("td", {}, toResult(row.result_id)), el("td", {}, row.counts), el("td", {}, row.level ?? "\u2013"), el("td", {}, bdi(row.why))]));
const listed = (title, rows, draw) => (rows?.length ? [el("h3", {}, title), draw(rows)] : []);
const sentences = (rows) => el("ul", {}, ...rows.map((each) => el("li", {}, bdi(each))));

// A claim's verdict, the sentence as it may be printed, and what it was checked against.
export function claimed(done) {
  const looks = done.looks ?? {}, { n_tests: n, n_counted: counted, n_features: features, n_prompts: prompts, n_settings: settings } = looks;
  const badge = el("span", { class: `badge ${done.verdict === "stands" ? "good" : "poor"}` }, done.verdict);
  return el("div", { class: "claim" },
    el("p", {}, badge, ` The results allow: ${done.level ?? "nothing"}.`),
    done.printed ? el("blockquote", { class: "panel text-out" }, ...done.printed.split("\n").map((line) => el("p", {}, bdi(line)))) : "",
    ...listed("Why", done.reasons, sentences),
    ...listed("Checked against", done.checks, (rows) => checked("Results that it names", rows)),
    ...listed("What speaks against it", done.contradicting, (rows) => checked("Other results that speak against it", rows)),
    ...listed("What is missing", done.missing, (rows) => el("ul", {}, ...rows.map((each) => el("li", {}, el("strong", {}, each.what), ": ", bdi(each.why))))),
    el("h3", {}, "How often it was looked"), facts([["tests of this effect", n], ["that count", counted], ["features", features], ["prompts", prompts], ["strengths and modes", settings], ["smallest p", looks.p], ["corrected", looks.corrected]]));
}

// A result, of a call with the arguments `given`, by what it has; what has no view of its own says its summary.
export function resultOf(done, given) {
  if (done.tokens?.length) return encoded(done, given);
  if (done.table?.length) return swept(done, given);
  if (done.baseline) return steered(done, given);
  if (done.target && done.features) return explained(done, given);
  if (isNumber(done.effect)) return edited(done, given);
  if (done.looks) return section("The claim", claimed(done), evidence(done));
  return evidence(done);
}
