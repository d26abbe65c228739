import { all, ask, asked, bdi, choice, el, field, form, main, named, number, refusal, say, token } from "./window.js";
import { List } from "./list.js";

const found = el("p", { class: "quiet", role: "status" });
const page = el("iframe", { class: "page", title: "The feature's page", sandbox: "allow-scripts allow-popups allow-top-navigation-by-user-activation", hidden: true });
const order = el("select", {}, ...[["density", "density"], ["peak", "peak"], ["feature", "number"]].map(([value, said]) => el("option", { value }, said)));
const kind = el("select", {}, ...[["label", "in labels"], ["token", "that promote the token"]].map(([value, said]) => el("option", { value }, said)));
const words = el("input", { type: "search", maxlength: "200", autocomplete: "off", placeholder: "words, a token, or a number" });
const more = el("p");
let sae = null;

function open(row) {
  page.hidden = false;
  page.src = `page?${new URLSearchParams({ sae: sae.select.value, feature: row.feature })}`;
  page.title = `The page of feature ${row.feature}`;
  const given = new URLSearchParams({ sae: sae.select.value, feature: row.feature });
  more.replaceChildren(`Feature ${row.feature}: `, el("a", { href: `text?${given}` }, "see it on a text"), ", ", el("a", { href: `steering?${given}` }, "steer with it"));
  history.replaceState(null, "", `features?${new URLSearchParams({ sae: sae.select.value, feature: row.feature })}`);
  say(`Feature ${row.feature} is shown.`);
}

function draw(row) {
  const measured = row.density !== undefined && row.density !== null ? [el("span", { class: "n" }, `${number(100 * row.density, 2)} %`), el("span", { class: "n" }, number(row.peak))] : row.score !== undefined ? [el("span", { class: "n" }, number(row.score)), el("span")] : [el("span"), el("span")];
  const what = row.label || !row.top_token ? named(row) : el("span", { class: "quiet" }, "fires on ", token(row.top_token));
  return [el("span", { class: "n" }, String(row.feature)), ...measured, el("span", { class: "what" }, what)];
}

const list = new List({ label: "Features", draw, open });
list.box.addEventListener("refused", (event) => found.replaceChildren(refusal(event.detail)));

async function showAll(at = 0) {
  const given = { sae: sae.select.value, by: order.value };
  const first = await ask("list", { ...given, limit: 0 });
  const by = first.corpus ? `by ${order.selectedOptions[0].textContent}; counted on ${number(first.corpus.n_tokens)} tokens of ${first.corpus.dataset}. Columns: number, share of tokens, peak.` : "by number: without an index (index_features), density and peak are not known.";
  found.replaceChildren(`${number(first.total)} features, ${by}`);
  list.show(first.total, async (offset, limit) => (await ask("list", { ...given, offset, limit })).features, at);
}

async function search() {
  const text = words.value;
  if (!text.trim()) return showAll();
  if (/^\s*\d+\s*$/.test(text)) {
    open({ feature: Number(text) });
    return undefined;
  }
  found.replaceChildren("Searching\u2026");
  const what = kind.value === "label" ? { query: text } : { tokens: [text] };
  const rows = await all("find_features", { sae: sae.select.value, ...what, k: 50 }, "features", 300);
  found.replaceChildren(bdi(rows.summary));
  list.show(rows.features.length, async (offset, limit) => rows.features.slice(offset, offset + limit));
  return undefined;
}

async function shown(work) {
  try {
    await work();
  } catch (error) {
    found.replaceChildren(refusal(error));
  }
}

async function start() {
  sae = await choice();
  if (!sae) return;
  sae.select.addEventListener("change", () => shown(showAll));
  order.addEventListener("change", () => shown(showAll));
  main.append(
    form(() => shown(search), field("SAE", sae.select), field("Order", order), field("Search", words), field("Where", kind), el("button", {}, "Search")),
    found,
    el("div", { class: "browser" }, list.box, page),
    more,
    el("p", { class: "quiet" }, "Keys: ", el("kbd", {}, "/"), " searches, arrows and Page keys move in the list, ", el("kbd", {}, "Enter"), " opens the feature."),
  );
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      words.focus();
    }
  });
  words.addEventListener("keydown", (event) => { if (event.key === "ArrowDown") { list.box.focus(); event.preventDefault(); } });
  const feature = asked.get("feature");
  if (feature !== null) order.value = "feature";
  await shown(() => showAll(Number(feature ?? 0) || 0));
  if (feature !== null && /^\d+$/.test(feature)) open({ feature: Number(feature) });
}

start();
