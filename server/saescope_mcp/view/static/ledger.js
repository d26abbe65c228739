import { asked, bdi, call, el, evidence, field, form, main, refusal, section, toFeature, within } from "./window.js";

const words = el("input", { type: "search", maxlength: "200" }), tool = el("input", { maxlength: "60", placeholder: "any" });
const sae = el("input", { maxlength: "200", placeholder: "any" }), day = el("input", { maxlength: "10", placeholder: "2026-11-30 or 2026-11" });
const list = el("div"), one = el("div"), lists = el("div");
let investigation = asked.get("investigation") ?? "", offset = 0;
const PAGE = 20;

const link = (id) => el("a", { href: `ledger?${new URLSearchParams({ result: id })}` }, id);

function rowOf(row) {
  const out = investigation ? el("button", { type: "button", onclick: () => take(row.result_id) }, "Take out") : "";
  return el("li", {}, el("strong", {}, row.tool), " ", link(row.result_id), el("span", { class: "quiet" }, ` ${row.created} ${row.about.join(", ")}`), el("p", {}, bdi(row.says)), row.note ? el("p", {}, "Note: ", bdi(row.note)) : "", out);
}

function show() {
  return within(list, "Looking\u2026", async () => {
    const told = await call("results", { text: words.value, tool: tool.value, sae: sae.value, day: day.value, investigation, limit: PAGE, offset });
    if (told.investigations?.length && !investigation) showLists(told.investigations);
    const step = (to, said) => el("button", { type: "button", onclick: () => { offset = to; show(); } }, said);
    return [el("p", {}, bdi(told.summary)), ...told.warnings.map((each) => el("p", { class: "warnings" }, bdi(each))), el("ul", { class: "rows" }, ...told.results.map(rowOf)), el("p", {}, offset ? step(Math.max(0, offset - PAGE), "Newer") : "", " ", told.next_offset ? step(told.next_offset, "Older") : "")];
  });
}

function showLists(rows) {
  lists.replaceChildren(el("ul", { class: "rows" }, ...rows.map((row) => el("li", {}, el("a", { href: `ledger?${new URLSearchParams({ investigation: row.name })}` }, row.name), ` ${row.n} results `, bdi(row.note), row.gone.length ? el("span", { class: "warnings" }, ` ${row.gone.length} gone`) : ""))));
}

async function take(id) {
  try {
    await call("results", { investigation, remove: [id] });
    await show();
  } catch (error) {
    list.prepend(refusal(error));
  }
}

// A result as it was: what it says, what was asked, all of it.
function bring(id) {
  return within(one, "Bringing it back\u2026", async () => {
    const told = await call("results", { result_id: id });
    const name = el("input", { required: true, maxlength: "100" }), note = el("input", { maxlength: "1000" }), said = el("span", { role: "status" });
    const add = async () => {
      try {
        const done = await call("results", { investigation: name.value, add: [id], note: note.value });
        said.replaceChildren(bdi(done.summary));
      } catch (error) {
        said.replaceChildren(refusal(error));
      }
    };
    const json = (value) => el("pre", { tabindex: "0" }, bdi(JSON.stringify(value, null, 1)).textContent.replaceAll("\u21b5", "\n"));
    const about = told.arguments, feature = about.sae && Number.isInteger(about.feature) ? el("p", {}, "Feature ", toFeature(about.sae, about.feature)) : "";
    return section(`Result ${id}`, el("p", { class: "quiet" }, bdi(told.summary)), feature, evidence(told.document), form(add, field("Put it into the investigation (a name without spaces)", name), field("Note", note), el("button", {}, "Put in"), said), el("h3", {}, "What was asked"), json(about), el("h3", {}, "What came of it"), json(told.document));
  });
}

main.append(one, section(investigation ? `Results of ${investigation}` : "Results", form(() => { offset = 0; show(); }, field("Words", words), field("Tool", tool), field("SAE", sae), field("Day or month (UTC)", day), el("button", {}, "Find")), investigation ? el("p", {}, el("a", { href: "ledger" }, "All results")) : "", list), section("Investigations", lists));
lists.append(el("p", { class: "quiet" }, "None named yet: open a result and put it into one."));
if (asked.get("result")) bring(asked.get("result"));
show();
