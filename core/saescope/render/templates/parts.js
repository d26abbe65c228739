// What the views of the window and the apps are made of: elements of text alone.

// In the window names lead to their pages; an app has none to go to.
const inWindow = document.body.classList.contains("window");
const to = (page, given, said) => (inWindow ? el("a", { href: `${page}?${new URLSearchParams(given)}` }, said) : el("span", {}, said));

// An element; strings among the children are text, never markup.
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu;
const SHOWN = { "\n": "\u21b5", "\t": "\u21e5", "\r": "\u240d" };

// Text whose characters all show: what would turn others around is shown by its code point.
export const visible = (text) => String(text).replace(HIDDEN, (char) => SHOWN[char] ?? `\u27e8U+${char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`);
export const bdi = (text) => el("bdi", {}, visible(text));
export const token = (text) => el("code", {}, visible(text).replaceAll(" ", "\u2423"));

export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "\u2013";
  if (Number.isInteger(value) || Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(digits)));
}

export const field = (label, input) => el("label", { class: "field" }, el("span", {}, label), input);
export const section = (title, ...children) => el("section", {}, el("h2", {}, title), ...children);
// A time in UTC as a person reads it.
export const when = (created) => `${created.slice(0, 16).replace("T", " ")} UTC`;
export const toResult = (id) => to("ledger", { result: id }, id);
export const warned = (done) => (done.warnings ?? []).map((each) => el("p", { class: "warnings" }, el("span", { class: "sr" }, "Warning: "), bdi(each)));

function kept(done) {
  if (!done.result_id) return "";
  const where = document.body.dataset.keeps === "no" ? ["Not kept: the ledger is switched off."] : [inWindow ? "Kept as " : "Result ", toResult(done.result_id), "."];
  return el("p", { class: "quiet" }, "Evidence: ", done.evidence ?? "none", ". ", ...where);
}

// What a result says of itself: its summary, its warnings, what it rests on, where it is kept.
export const evidence = (done) => el("div", { class: "summary" }, done.summary ? el("p", {}, bdi(done.summary)) : "", ...warned(done), kept(done));

export const facts = (pairs) => el("dl", {}, ...pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, typeof value === "number" ? number(value) : value))));

// A table that scrolls by itself where it is too wide.
export const table = (label, heads, rows) => el("div", { class: "scroll-x", tabindex: "0", role: "region", "aria-label": label }, el("table", {}, el("thead", {}, el("tr", {}, ...heads.map((each) => el("th", { scope: "col" }, each)))), el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row)))));

// A label as text, with whether it was tested.
export function named(row) {
  if (row.label) return el("span", {}, bdi(row.label.text), el("span", { class: "quiet" }, row.label.score ? ` (${number(row.label.score.balanced_accuracy, 2)}: ${row.label.verdict})` : " (not tested)"));
  return el("span", { class: "quiet" }, "no label");
}

export const toFeature = (sae, feature) => to("features", { sae, feature }, String(feature));
