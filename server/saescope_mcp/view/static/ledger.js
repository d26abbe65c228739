import { asked, bdi, call, el, evidence, field, form, main, number, refusal, section, toFeature, toResult, warned, when, within } from "./window.js";
import { claimed } from "./results.js";

const words = el("input", { type: "search", maxlength: "200" }), tool = el("input", { maxlength: "60", placeholder: "any" });
const sae = el("input", { maxlength: "200", placeholder: "any" }), day = el("input", { maxlength: "10", placeholder: "2026-11-30 or 2026-11" });
const list = el("div"), one = el("div"), lists = el("div"), about = el("div");
const investigation = asked.get("investigation") ?? "", PAGE = 20;
let offset = 0, ids = [];

// What is said where it was asked, or why it was refused.
async function saying(place, work) {
  try {
    place.replaceChildren(...[await work()].flat());
  } catch (error) {
    place.replaceChildren(refusal(error));
  }
}

function rowOf(row) {
  const out = investigation ? el("button", { type: "button", "aria-label": `Take ${row.result_id} out`, onclick: () => take(row.result_id) }, "Take out") : "";
  return el("li", {}, el("strong", {}, row.tool), " ", toResult(row.result_id), el("span", { class: "quiet" }, ` ${when(row.created)} ${row.about.join(", ")}`), el("p", {}, bdi(row.says)), row.note ? el("p", { class: "note" }, "Note: ", bdi(row.note)) : "", out);
}

function show() {
  const given = { text: words.value, tool: tool.value, sae: sae.value, day: day.value, investigation, limit: PAGE, offset };
  return within(list, "Looking\u2026", async () => {
    const told = await call("results", given);
    ids = told.results.map((row) => row.result_id);
    showLists(told.investigations ?? []);
    const step = (to, said) => el("button", { type: "button", onclick: () => { offset = to; show(); } }, said);
    return [el("p", {}, bdi(told.summary)), ...warned(told), el("ul", { class: "rows" }, ...told.results.map(rowOf)), el("p", {}, given.offset ? step(Math.max(0, given.offset - PAGE), "Newer") : "", " ", told.next_offset ? step(told.next_offset, "Older") : "")];
  });
}

const gone = (row) => (row.gone.length ? el("span", { class: "warnings" }, ` ${row.gone.length} of them no longer kept: ${row.gone.join(", ")}`) : "");

function showLists(rows) {
  if (!investigation && rows.length) lists.replaceChildren(el("ul", { class: "rows" }, ...rows.map((row) => el("li", {}, el("a", { href: `ledger?${new URLSearchParams({ investigation: row.name })}` }, row.name), ` ${number(row.n)} ${row.n === 1 ? "result" : "results"} `, bdi(row.note), gone(row)))));
  if (investigation && rows.length && !about.childElementCount) about.replaceChildren(...aboutOf(rows[0]));
}

// An investigation's note, which can be written anew, and a claim that rests on its results.
function aboutOf(row) {
  const note = el("input", { maxlength: "1000", value: row.note }), said = el("div", { role: "status" });
  const write = () => saying(said, async () => bdi((await call("results", { investigation, note: note.value })).summary));
  return [row.note ? el("p", { class: "note" }, bdi(row.note)) : "", gone(row), form(write, field("Note on the investigation", note), el("button", {}, "Write it")), said, reportOf({ investigation }), claimForm(() => ids, null)];
}

// The report that export_report would write, to read and to print.
const reportOf = (what) => el("p", {}, el("a", { href: `report?${new URLSearchParams(what)}` }, "Its report"), el("span", { class: "quiet" }, " on a page of its own; export_report writes it with a script that computes the numbers again."));

async function take(id) {
  try {
    await call("results", { investigation, remove: [id] });
    await show();
  } catch (error) {
    list.prepend(refusal(error));
  }
}

const LEVELS = ["seen", "correlates", "intervened", "controlled", "replicated"], DIRECTIONS = ["raises", "lowers", "fires"];
const select = (values) => el("select", {}, ...values.map((value) => el("option", { value }, value)));

// Checks a sentence against results; `of` gives their ids.
function claimForm(of, feature) {
  const text = el("input", { required: true, maxlength: "1000" }), index = el("input", { type: "number", min: "0", required: true, value: feature ?? "" });
  const effect = el("input", { required: true, maxlength: "200" }), direction = select(DIRECTIONS), level = select(LEVELS), against = el("input", { maxlength: "200", placeholder: "none" });
  const handle = el("input", { maxlength: "200", placeholder: "that of the results" }), out = el("div", { role: "status" });
  const check = () => {
    const given = { text: text.value, sae: handle.value, feature: Number(index.value), effect: effect.value, direction: direction.value, level: level.value, against: against.value, results: of() };
    return within(out, "Checking the claim\u2026", async () => {
      const done = await call("claim", given);
      return [claimed(done), evidence(done)];
    });
  };
  const fields = [el("label", { class: "field wide" }, el("span", {}, "Sentence"), text), field("Feature", index), field("SAE of the claim", handle), field("It", direction), field("the token (a leading space counts)", effect), field("against", against), field("Level", level)];
  return el("details", {}, el("summary", {}, "Check a claim that rests on this"), form(check, ...fields, el("button", {}, "Check")), out);
}

const json = (value) => el("pre", { tabindex: "0" }, bdi(JSON.stringify(value, null, 1)).textContent.replaceAll("\u21b5", "\n"));

function putForm(id) {
  const name = el("input", { required: true, maxlength: "100", value: investigation }), note = el("input", { maxlength: "1000" }), said = el("span", { role: "status" });
  const add = () => {
    const given = { investigation: name.value, add: [id], note: note.value };
    return saying(said, async () => [bdi((await call("results", given)).summary), " ", el("a", { href: `ledger?${new URLSearchParams({ investigation: given.investigation })}` }, "See it")]);
  };
  return form(add, field("Put it into the investigation (a name without spaces)", name), field("Note", note), el("button", {}, "Put in"), said);
}

// A result as it was: what it says, what was asked, all of it.
function bring(id) {
  return within(one, "Bringing it back\u2026", async () => {
    const told = await call("results", { result_id: id }), asked_ = told.arguments, kind = told.results[0].tool;
    const feature = Number.isInteger(asked_.feature) ? asked_.feature : asked_.edits?.[0]?.feature ?? asked_.features?.[0]?.feature ?? null;
    const link = asked_.sae && Number.isInteger(feature) ? el("p", {}, "Feature ", toFeature(asked_.sae, feature)) : "";
    const said = kind === "claim" ? [el("p", {}, "Claimed: ", bdi(asked_.text), ` (level: ${asked_.level})`), claimed(told.document)] : [];
    const after = kind === "claim" ? "" : claimForm(() => [id], feature);
    return section(`Result ${id}`, el("p", { class: "quiet" }, bdi(told.summary)), ...warned(told), link, ...said, evidence({ ...told.document, result_id: null }), reportOf({ result: id }), putForm(id), after, el("h3", {}, "What was asked"), json(asked_), el("h3", {}, "What came of it"), json(told.document));
  });
}

main.append(one, section(investigation ? `Investigation ${investigation}` : "Results", about, form(() => { offset = 0; show(); }, field("Words", words), field("Tool", tool), field("SAE", sae), field("Day or month (UTC)", day), el("button", {}, "Find")), investigation ? el("p", {}, el("a", { href: "ledger" }, "All results")) : "", list));
if (!investigation) main.append(section("Investigations", lists));
lists.append(el("p", { class: "quiet" }, "None named yet: open a result and put it into one."));
if (asked.get("result")) bring(asked.get("result"));
show();
