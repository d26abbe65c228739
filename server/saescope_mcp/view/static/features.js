import { ask, asked, call, choice, el, evidence, field, form, main, named, number, refusal, say, token, turn } from "./window.js";
import { List, PAGE } from "./list.js";
import { histogram } from "./chart.js";

const found = el("div", { class: "quiet", role: "status" });
const page = el("iframe", { class: "page", title: "The feature's page", sandbox: "allow-scripts allow-popups allow-top-navigation-by-user-activation", hidden: true });
const order = el("select", {}, ...[["density", "density"], ["peak", "peak"], ["feature", "number"]].map(([value, said]) => el("option", { value }, said)));
const kind = el("select", {}, ...[["label", "in labels"], ["token", "that promote the token"]].map(([value, said]) => el("option", { value }, said)));
const words = el("input", { type: "search", maxlength: "200", autocomplete: "off", size: "28", placeholder: "words, a token, or a number" });
const more = el("p", { class: "more" }), densities = el("div");
let sae = null;

// The feature's page beside the list, and what can be done with it.
function open(row, handle = sae.select.value) {
  const given = new URLSearchParams({ sae: handle, feature: row.feature });
  page.hidden = false;
  page.src = `page?${given}`;
  page.title = `The page of feature ${row.feature}`;
  more.replaceChildren(`Feature ${row.feature}: `, el("a", { href: `text?${given}` }, "see it on a text"), ", ", el("a", { href: `steering?${given}` }, "steer with it"), ", ", el("a", { href: `page?${given}` }, "its page alone"));
  history.replaceState(null, "", `features?${given}`);
  say(`Feature ${row.feature} is shown.`);
}

function draw(row) {
  const measured = row.density !== undefined && row.density !== null ? [el("span", { class: "n" }, `${number(100 * row.density, 2)} %`), el("span", { class: "n" }, number(row.peak))] : row.score !== undefined ? [el("span", { class: "n" }, number(row.score)), el("span")] : [el("span"), el("span")];
  const what = row.label || !row.top_token ? named(row) : el("span", { class: "quiet" }, "fires on ", token(row.top_token));
  return [el("span", { class: "n" }, String(row.feature)), ...measured, el("span", { class: "what" }, what)];
}

const list = new List({ label: "Features", draw, open });
list.box.addEventListener("refused", (event) => found.replaceChildren(refusal(event.detail)));

async function showAll(newest, at = 0) {
  const given = { sae: sae.select.value, by: order.value }, by = order.selectedOptions[0].textContent;
  const first = await ask("list", { ...given, limit: 0 });
  if (!newest()) return;
  const said = first.corpus ? `by ${by}; counted on ${number(first.corpus.n_tokens)} tokens of ${first.corpus.dataset}. Columns: number, share of tokens, peak.` : "by number: without an index (index_features), density and peak are not known.";
  found.replaceChildren(`${number(first.total)} features, ${said}`);
  list.show(first.total, async (offset, limit) => (await ask("list", { ...given, offset, limit })).features, at);
}

// What was found is asked for as far as it is looked at; a reply may have fewer rows than were asked for.
async function rowsOf(given, first, offset, limit) {
  const rows = offset ? [] : [...first.features], end = Math.min(limit, first.total - offset);
  while (rows.length < end) {
    const more = await call("find_features", { ...given, k: end - rows.length, offset: offset + rows.length });
    if (!more.features.length) break;
    rows.push(...more.features);
  }
  return rows;
}

async function search(newest) {
  const text = words.value, handle = sae.select.value, what = kind.value === "label" ? { query: text } : { tokens: [text] };
  if (!text.trim()) return showAll(newest);
  if (/^\s*\d+\s*$/.test(text)) return open({ feature: Number(text) }, handle);
  found.replaceChildren("Searching\u2026");
  const given = { sae: handle, ...what }, first = await call("find_features", { ...given, k: PAGE });
  if (!newest()) return undefined;
  found.replaceChildren(evidence(first));
  list.show(first.total, (offset, limit) => rowsOf(given, first, offset, limit));
  return undefined;
}

async function showDensities(newest) {
  const handle = sae.select.value, told = await ask("densities", { sae: handle });
  if (!newest()) return;
  const drawn = told.corpus ? histogram(told.bins, told.n_never, `How often features of ${handle} fire, on ${number(told.corpus.n_tokens)} tokens of ${told.corpus.dataset}: how many at which share of tokens.`) : "";
  densities.replaceChildren(drawn ? el("details", {}, el("summary", {}, "How often features fire"), drawn) : "");
}

// Only the newest question of a place is answered.
async function shown(work, place = found, ...given) {
  const newest = turn(place);
  try {
    await work(newest, ...given);
  } catch (error) {
    if (newest()) place.replaceChildren(refusal(error));
  }
}

function keys() {
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      words.focus();
    }
  });
  words.addEventListener("keydown", (event) => { if (event.key === "ArrowDown") { list.box.focus(); event.preventDefault(); } });
}

async function start() {
  sae = await choice();
  if (!sae) return;
  sae.select.addEventListener("change", () => { shown(showAll); shown(showDensities, densities); });
  order.addEventListener("change", () => shown(showAll));
  main.append(
    form(() => shown(search), field("SAE", sae.select), field("Order", order), field("Search", words), field("Where", kind), el("button", {}, "Search")),
    found, densities,
    el("div", { class: "browser" }, list.box, el("div", {}, more, page)),
    el("p", { class: "quiet" }, "Keys: ", el("kbd", {}, "/"), " searches, arrows and Page keys move in the list, ", el("kbd", {}, "Enter"), " opens the feature."),
  );
  keys();
  const feature = asked.get("feature");
  if (feature !== null) order.value = "feature";
  shown(showDensities, densities);
  await shown(showAll, found, Number(feature ?? 0) || 0);
  if (feature !== null && /^\d+$/.test(feature)) open({ feature: Number(feature) });
}

start();
