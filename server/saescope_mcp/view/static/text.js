import { all, asked, bdi, call, choice, el, evidence, field, form, main, number, refusal, section, toFeature, turn, within } from "./window.js";
import { POINT, colour as paint, featuresAt, tokenButton } from "./results.js";

const PAGE = 100;
const text = el("textarea", { required: true, maxlength: "20000", rows: "5" });
const feature = el("input", { type: "number", min: "0", step: "1", placeholder: "strongest" });
const out = el("div");
text.value = asked.get("text") ?? "";
feature.value = asked.get("feature") ?? "";

// One SAE on the text, a page of tokens after the other: coloured by a feature, or by the strongest of each.
async function read(sae, given) {
  const view = { sae, text: given.text, chosen: given.feature, rows: [], buttons: [], next: 0 };
  view.says = el("p", { class: "quiet" });
  view.detail = el("div", { class: "panel", "aria-live": "polite" }, el("p", { class: "quiet" }, POINT));
  view.tokens = el("p", { class: "tokens", dir: "ltr" });
  view.more = el("div");
  view.kept = el("div");
  await page(view);
  await colour(view, view.chosen);
  return section(sae, view.says, view.tokens, view.more, view.detail, view.kept);
}

async function page(view) {
  const done = await call("encode_text", { sae: view.sae, text: view.text, top_k: 10, limit: PAGE, offset: view.next });
  const made = done.tokens.map((row) => tokenButton(row, () => detail(view, row)));
  view.rows.push(...done.tokens);
  view.buttons.push(...made);
  view.tokens.append(...made);
  view.next = done.next_offset;
  view.kept.replaceChildren(evidence(done));
  const on = el("button", { type: "button", onclick: () => onward(view, on) }, `Next ${Math.min(PAGE, done.total - view.rows.length)} tokens`);
  view.more.replaceChildren(view.next === null || view.next === undefined ? "" : el("p", {}, `${number(view.rows.length)} of ${number(done.total)} tokens are shown. `, on));
}

async function onward(view, button) {
  button.disabled = true;
  const first = view.buttons.length;
  try {
    await page(view);
    await colour(view, view.chosen);
    view.buttons[first]?.focus();
  } catch (error) {
    view.more.replaceChildren(refusal(error));
  }
}

// Where the feature fires on the whole text is asked once; the newest choice is the one that is shown.
async function colour(view, chosen) {
  const newest = turn(view.says);
  view.chosen = chosen;
  if (chosen !== null && view.fires?.feature !== chosen) {
    const found = await all("encode_text", { sae: view.sae, text: view.text, features: [chosen], limit: PAGE }, "places");
    if (!newest()) return;
    view.fires = { feature: chosen, heat: new Map(found.places.map((row) => [row.pos, row.activation])) };
  }
  const heat = chosen === null ? new Map(view.rows.map((row) => [row.pos, row.features[0]?.activation ?? 0])) : view.fires.heat;
  const peak = paint(view.buttons, view.rows.map((row) => heat.get(row.pos) ?? 0));
  if (chosen === null) view.says.replaceChildren("Coloured by the strongest feature of each token.");
  else view.says.replaceChildren("Coloured by feature ", toFeature(view.sae, chosen), peak ? `: it fires on ${heat.size} ${heat.size === 1 ? "token" : "tokens"} of the text, at most ${number(peak)}.` : ": it does not fire on this text.");
}

function detail(view, row) {
  view.buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(view.rows[index] === row)));
  const choose = (chosen) => colour(view, chosen).catch((error) => view.says.replaceChildren(refusal(error)));
  view.detail.replaceChildren(...featuresAt(row, view.sae, choose));
}

async function start() {
  const sae = await choice();
  if (!sae) return;
  const boxes = sae.loaded.map((row) => el("label", {}, el("input", { type: "checkbox", value: row.handle, checked: row.handle === sae.select.value }), bdi(row.handle)));
  const chosen = () => boxes.map((box) => box.firstChild).filter((box) => box.checked).map((box) => box.value);
  const submit = () => {
    const given = { text: text.value, feature: feature.value === "" ? null : Number(feature.value) }, handles = chosen();
    return within(out, "Reading the text\u2026", async () => {
      if (!handles.length) throw new Error("No SAE is chosen: tick one or more.");
      const made = [];
      for (const handle of handles) made.push(await read(handle, given));
      return el("div", { class: "beside" }, ...made);
    });
  };
  main.append(
    form(submit, el("label", { class: "field wide" }, el("span", {}, "Text"), text), el("fieldset", {}, el("legend", {}, "SAEs, side by side"), ...boxes), field("Feature", feature), el("button", {}, "Read")),
    el("p", { class: "quiet" }, "Position 0 and special tokens are left out, as everywhere."),
    out,
  );
  if (text.value) submit();
}

start();
