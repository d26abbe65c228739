import { all, asked, bdi, choice, el, evidence, field, form, main, number, refusal, section, toFeature, visible, within } from "./window.js";

const LEVELS = 8;
const text = el("textarea", { required: true, maxlength: "20000", rows: "5" });
const feature = el("input", { type: "number", min: "0", step: "1", placeholder: "strongest" });
const out = el("div");
text.value = asked.get("text") ?? "";
feature.value = asked.get("feature") ?? "";

// One SAE on the text: tokens coloured by a feature, or by the strongest of each.
async function read(sae) {
  const done = await all("encode_text", { sae, text: text.value, top_k: 10, limit: 50 }, "tokens");
  const view = { sae, done, heat: new Map(), top: 0, pinned: null };
  view.says = el("p", { class: "quiet" });
  view.detail = el("div", { class: "panel", "aria-live": "polite" }, el("p", { class: "quiet" }, "Point at a token, or go to it with the Tab key, to see its features."));
  view.tokens = el("p", { class: "tokens", dir: "ltr" });
  view.buttons = done.tokens.map((row) => {
    const show = () => detail(view, row);
    return el("button", { type: "button", onmouseenter: show, onfocus: show, onclick: show }, visible(row.token));
  });
  view.tokens.append(...view.buttons);
  await colour(view, feature.value === "" ? null : Number(feature.value));
  return section(sae, view.says, view.tokens, view.detail, evidence(done));
}

async function colour(view, chosen) {
  const rows = view.done.tokens;
  if (chosen === null) {
    view.heat = new Map(rows.map((row) => [row.pos, row.features[0]?.activation ?? 0]));
    view.says.replaceChildren("Coloured by the strongest feature of each token.");
  } else {
    const found = await all("encode_text", { sae: view.sae, text: text.value, features: [chosen], limit: 50 }, "places");
    view.heat = new Map(found.places.map((row) => [row.pos, row.activation]));
    const peak = Math.max(0, ...view.heat.values());
    view.says.replaceChildren("Coloured by feature ", toFeature(view.sae, chosen), peak ? `: it fires on ${view.heat.size} tokens, at most ${number(peak)}.` : ": it does not fire on this text.");
  }
  const peak = Math.max(0, ...view.heat.values()) || 1;
  rows.forEach((row, index) => {
    const value = view.heat.get(row.pos) ?? 0, button = view.buttons[index];
    button.className = value > 0 ? `a${Math.min(LEVELS, Math.ceil((LEVELS * value) / peak))}` : "";
    button.title = value > 0 ? number(value) : "";
  });
}

function detail(view, row) {
  view.buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(view.done.tokens[index] === row)));
  const choose = (number_) => colour(view, number_).catch((error) => view.says.replaceChildren(refusal(error)));
  view.detail.replaceChildren(
    el("p", {}, "Token ", el("code", {}, visible(row.token).replaceAll(" ", "\u2423")), ` at position ${row.pos}: ${row.l0} features fire`),
    el("table", {}, el("thead", {}, el("tr", {}, ...["feature", "activation", ""].map((each) => el("th", { scope: "col" }, each)))), el("tbody", {}, ...row.features.map((each) => el("tr", {}, el("td", { class: "n" }, toFeature(view.sae, each.feature)), el("td", { class: "n" }, number(each.activation)), el("td", {}, el("button", { type: "button", onclick: () => choose(each.feature) }, "colour by it")))))),
  );
}

async function start() {
  const sae = await choice();
  if (!sae) return;
  const boxes = sae.loaded.map((row) => el("label", {}, el("input", { type: "checkbox", value: row.handle, checked: row.handle === sae.select.value }), bdi(row.handle)));
  const chosen = () => boxes.map((box) => box.firstChild).filter((box) => box.checked).map((box) => box.value);
  const submit = () => within(out, "Reading the text\u2026", async () => {
    if (!chosen().length) throw new Error("No SAE is chosen: tick one or more.");
    const made = [];
    for (const handle of chosen()) made.push(await read(handle));
    return el("div", { class: "beside" }, ...made);
  });
  main.append(
    form(submit, el("label", { class: "field wide" }, el("span", {}, "Text"), text), el("fieldset", {}, el("legend", {}, "SAEs, side by side"), ...boxes), field("Feature", feature), el("button", {}, "Read")),
    el("p", { class: "quiet" }, "Position 0 and special tokens are left out, as everywhere."),
    out,
  );
  if (text.value) submit();
}

start();
