// An attribution graph that can be walked: nodes by layer and position, the card of the chosen one, pins and groups.
const SVG = "http://www.w3.org/2000/svg";
const CELL = 28;
const LINE = 30;
const MOST_DRAWN = 300;
const MOST_ROWS = 12;
const MOST_AT_FIRST = 120;
const N_COLOURS = 6;
const view = { graph: null, cards: {}, nodes: new Map(), into: new Map(), outOf: new Map(), rank: new Map(), places: new Map(), lines: [], chosen: "", pinned: new Set(), groups: [] };

const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
const percent = (share) => `${Number((100 * share).toPrecision(2))} %`;
const spaced = (text) => visible(text).replaceAll(" ", "\u2423");
const cut = (text, most) => ([...text].length > most ? `${[...text].slice(0, most - 1).join("")}\u2026` : text);

function drawn(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function named(id) {
  const node = view.nodes.get(id);
  const label = view.cards[id]?.label;
  if (label) return visible(label);
  if (node.kind === "token") return `token ${spaced(node.token)}`;
  if (node.kind === "logit") return `logit of ${spaced(node.token)}`;
  if (node.kind === "group") return visible(id);
  if (node.kind === "error") return `error of layer ${node.layer}`;
  return `feature ${node.feature} of layer ${node.layer}`;
}

function verdictOf(effect) {
  if (!effect) return ["not measured", "unmeasured"];
  return effect.confirmed ? ["confirmed", "confirmed"] : ["not confirmed", "refuted"];
}

function showGraph(data) {
  const graph = data.graph;
  Object.assign(view, { graph, cards: data.cards ?? {}, chosen: "", pinned: new Set() });
  view.nodes = new Map(graph.nodes.map((node) => [node.id, node]));
  view.groups = (graph.groups ?? []).map((group) => ({ name: group.name, nodes: [...group.nodes] }));
  for (const [side, end] of [["into", "target"], ["outOf", "source"]]) {
    view[side] = new Map(graph.nodes.map((node) => [node.id, []]));
    for (const edge of graph.edges) view[side].get(edge[end])?.push(edge);
    for (const edges of view[side].values()) edges.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
  }
  rankNodes();
  for (const id of ["share", "errors"]) byId(id).oninput = draw;
  byId("make-group").onclick = makeGroup;
  byId("pin-clear").onclick = () => { view.pinned.clear(); refresh(); };
  byId("copy").onclick = copyGroups;
  byId("graph").onkeydown = onKey;
  byId("graph").parentElement.onscroll = holdLayers;
  refresh();
  // The targets stand at the right: a narrow window begins there.
  const canvas = byId("graph").parentElement;
  canvas.scrollLeft = canvas.scrollWidth;
}

// What part of the influence is reached with each node, from the most influential one on.
function rankNodes() {
  const free = view.graph.nodes.filter((node) => ["feature", "group", "error"].includes(node.kind));
  free.sort((a, b) => b.influence - a.influence || compare(a.id, b.id));
  const whole = free.reduce((sum, node) => sum + node.influence, 0) || 1;
  let reached = 0;
  view.rank = new Map(free.map((node) => [node.id, (reached += node.influence) / whole - node.influence / whole]));
  const first = free[Math.min(MOST_AT_FIRST, free.length) - 1];
  const share = free.length > MOST_AT_FIRST ? Math.floor(100 * view.rank.get(first.id)) : 100;
  byId("share").value = String(Math.max(5, share));
}

function isShown(node) {
  if (!view.rank.has(node.id) || view.pinned.has(node.id) || node.id === view.chosen) return true;
  if (node.kind === "error" && !byId("errors").checked) return false;
  return view.rank.get(node.id) < Number(byId("share").value) / 100 - 1e-9 || byId("share").value === "100";
}

// Rows from the targets down to the tokens; in a row the nodes of a position stand side by side.
function layOut() {
  const shown = view.graph.nodes.filter(isShown);
  const layers = [...new Set(shown.filter((node) => node.layer !== null && node.layer !== undefined).map((node) => node.layer))].sort((a, b) => b - a);
  const rows = layers.map((layer) => ({ layer, cells: new Map(), lines: 1 }));
  const byLayer = new Map(rows.map((row) => [row.layer, row]));
  for (const node of shown.filter((each) => byLayer.has(each.layer))) {
    const cells = byLayer.get(node.layer).cells;
    if (!cells.has(node.pos)) cells.set(node.pos, []);
    cells.get(node.pos).push(node);
  }
  const used = [...new Set(shown.filter((node) => node.kind !== "token" || view.outOf.get(node.id).length || node.id === view.chosen).map((node) => node.pos))].sort((a, b) => a - b);
  const columns = new Map();
  let x = 58;
  for (const pos of used) {
    const most = Math.max(1, ...rows.map((row) => row.cells.get(pos)?.length ?? 0));
    const across = Math.min(most, Math.max(3, Math.ceil(Math.sqrt(2 * most))));
    const text = 9 + 7.4 * Math.min(12, [...spaced(view.graph.tokens[pos])].length);
    const width = Math.max(across * CELL, text, 34) + 10;
    columns.set(pos, { x, width, across });
    x += width;
  }
  return { shown, rows, columns, width: x + 8 };
}

function place(plan) {
  const { shown, rows, columns } = plan;
  view.places = new Map();
  view.lines = [];
  const logits = shown.filter((node) => node.kind === "logit");
  let y = placeLogits(logits, plan);
  for (const row of rows) {
    const lines = Math.max(1, ...[...row.cells].map(([pos, nodes]) => Math.ceil(nodes.length / columns.get(pos).across)));
    row.top = y;
    row.height = lines * LINE + (rows.length > 12 ? 4 : 16);
    for (const [pos, nodes] of row.cells) {
      const column = columns.get(pos);
      nodes.sort((a, b) => b.influence - a.influence || compare(a.id, b.id));
      const across = Math.min(column.across, nodes.length);
      nodes.forEach((node, at) => {
        const left = column.x + (column.width - across * CELL) / 2;
        view.places.set(node.id, { x: left + (at % across) * CELL + CELL / 2, y: y + 8 + Math.floor(at / across) * LINE + LINE / 2, row: row.layer });
      });
    }
    y += row.height;
  }
  for (const node of shown.filter((each) => each.kind === "token" && columns.has(each.pos))) {
    const column = columns.get(node.pos);
    view.places.set(node.id, { x: column.x + column.width / 2, y: y + 22, row: "tokens", width: column.width - 6 });
  }
  return y + 56;
}

function placeLogits(logits, plan) {
  const widths = logits.map((node) => 22 + 7.4 * Math.min(14, [...spaced(node.token)].length) + 44);
  plan.width = Math.max(plan.width, 66 + Math.min(3, logits.length) * Math.max(0, ...widths));
  const lines = [[]];
  let left = plan.width - 66;
  logits.forEach((node, at) => {
    if ((left -= widths[at]) < 0) [left] = [plan.width - 66 - widths[at], lines.push([])];
    lines.at(-1).push({ node, width: widths[at] });
  });
  let y = 24;
  for (const line of lines) {
    let x = plan.width - 8 - line.reduce((sum, each) => sum + each.width, 0);
    for (const { node, width } of line) {
      view.places.set(node.id, { x: x + width / 2, y, row: "logits", width: width - 6 });
      x += width;
    }
    y += LINE;
  }
  return y - 4;
}

function draw() {
  const plan = layOut();
  const height = place(plan);
  const svg = byId("graph");
  svg.setAttribute("viewBox", `0 0 ${plan.width} ${height}`);
  svg.setAttribute("width", plan.width);
  svg.setAttribute("height", height);
  const marks = plan.rows.flatMap((row) => [
    drawn("line", { class: "rule", x1: 0, x2: plan.width, y1: row.top, y2: row.top }),
    drawn("text", { class: "layer", x: 6, y: row.top + row.height / 2 + 4 }, `layer ${row.layer}`),
  ]);
  const nodes = plan.shown.filter((node) => view.places.has(node.id)).sort((a, b) => before(a.id, b.id));
  const edges = drawnEdges();
  svg.replaceChildren(
    drawn("g", { "aria-hidden": "true" }, ...marks.filter((each) => each.tagName === "line")),
    drawn("g", { "aria-hidden": "true" }, ...edges),
    drawn("g", { "aria-hidden": "true" }, ...marks.filter((each) => each.tagName === "text")),
    drawn("g", { class: "nodes" }, ...nodes.map(nodeMark)),
  );
  const hidden = view.rank.size - plan.shown.filter((node) => view.rank.has(node.id)).length;
  const all = view.graph.edges.filter((edge) => view.places.has(edge.source) && view.places.has(edge.target)).length;
  byId("share-said").textContent = `${byId("share").value} % of the influence of features and errors`;
  byId("counted").textContent = `${nodes.length} nodes${hidden ? ` (${hidden} hidden)` : ""}, ${edges.length} of ${all} edges drawn${edges.length < all ? ": the strongest; choose a node to see all of its own" : ""}.`;
  mark();
  holdLayers();
}

// The names of layers stay in sight where the graph is wider than its frame.
function holdLayers() {
  const left = byId("graph").parentElement.scrollLeft;
  for (const each of byId("graph").querySelectorAll(".layer")) each.setAttribute("transform", `translate(${left} 0)`);
}

// Left to right, top to bottom.
function before(a, b) {
  const [p, q] = [view.places.get(a), view.places.get(b)];
  return p.y - q.y || p.x - q.x;
}

function drawnEdges() {
  const there = view.graph.edges.filter((edge) => view.places.has(edge.source) && view.places.has(edge.target));
  const size = (edge) => Math.abs(edge.flow) || 0;
  there.sort((a, b) => size(b) - size(a));
  const own = (edge) => edge.source === view.chosen || edge.target === view.chosen;
  const kept = there.filter((edge, at) => at < MOST_DRAWN || own(edge));
  const most = Math.max(1e-12, ...kept.map(size));
  view.lines = kept.map((edge) => ({ edge, line: edgeLine(edge, size(edge) / most) }));
  return view.lines.map((each) => each.line).reverse();
}

function edgeLine(edge, size) {
  const [a, b] = [view.places.get(edge.source), view.places.get(edge.target)];
  const [y1, y2] = [a.y - 9, b.y + 10];
  const bend = Math.max(18, Math.abs(y1 - y2) / 2.2);
  const path = `M${a.x.toFixed(1)} ${y1}C${a.x.toFixed(1)} ${y1 - bend} ${b.x.toFixed(1)} ${y2 + bend} ${b.x.toFixed(1)} ${y2}`;
  const classes = ["edge", edge.weight < 0 ? "minus" : "plus", verdictOf(edge.effect)[1]];
  return drawn("path", { class: classes.join(" "), d: path, "stroke-width": (0.8 + 4.2 * Math.sqrt(size)).toFixed(2) });
}

function nodeMark(node) {
  const at = view.places.get(node.id);
  const made = drawn("g", { class: `node ${node.kind}`, transform: `translate(${at.x.toFixed(1)} ${at.y})`, role: "button", tabindex: "-1", "data-id": node.id });
  made.append(drawn("title", {}, `${named(node.id)}, ${node.id}`), ...shapeOf(node, at));
  made.setAttribute("aria-label", spoken(node));
  made.addEventListener("click", () => choose(node.id));
  return made;
}

function shapeOf(node, at) {
  const touch = drawn("rect", { class: "touch", x: -CELL / 2, y: -LINE / 2, width: CELL, height: LINE });
  if (node.kind === "group") return [touch, drawn("rect", { class: "shape", x: -10, y: -9, width: 20, height: 18, rx: 5 }), drawn("circle", { class: "ring", r: 13 })];
  if (node.kind === "feature") return [touch, drawn("circle", { class: "shape", r: 8 }), drawn("circle", { class: "ring", r: 11.5 })];
  if (node.kind === "error") return [touch, drawn("path", { class: "shape", d: "M0 -8L8 0L0 8L-8 0Z" }), drawn("circle", { class: "ring", r: 11.5 })];
  const box = { x: -at.width / 2, width: at.width, y: -12, height: 24, rx: 4 };
  const target = view.graph.targets.find((each) => each.id === node.id);
  const text = cut(spaced(node.token), node.kind === "logit" ? 14 : 12);
  const parts = [drawn("rect", { class: "shape", ...box }), drawn("rect", { class: "ring", ...box }), drawn("text", { y: 4 }, target ? `${text} ${number(target.prob)}` : text)];
  if (node.kind === "token") parts.push(drawn("text", { class: "pos", y: 26 }, String(node.pos)));
  return parts;
}

function spoken(node) {
  const said = [named(node.id)];
  if (node.kind !== "token" && node.kind !== "logit") said.push(`at ${spaced(node.token)}, position ${node.pos}`);
  if (node.kind !== "logit") said.push(`influence ${percent(node.influence)}`);
  if (view.pinned.has(node.id)) said.push("pinned");
  return said.join(", ");
}

// Classes that follow from what is chosen, pinned and grouped.
function mark() {
  const near = new Set([view.chosen]);
  const chain = view.chosen ? strongestChain(view.chosen) : new Set();
  for (const { edge, line } of view.lines) {
    const own = edge.source === view.chosen || edge.target === view.chosen;
    if (own || chain.has(edge)) near.add(edge.source).add(edge.target);
    line.classList.toggle("own", own);
    line.classList.toggle("chain", chain.has(edge));
  }
  const svg = byId("graph");
  svg.classList.toggle("choosing", Boolean(view.chosen));
  const marks = [...svg.querySelectorAll(".node")];
  const stop = marks.find((each) => each.dataset.id === view.chosen) ?? marks[0];
  for (const each of marks) {
    const id = each.dataset.id;
    each.classList.toggle("chosen", id === view.chosen);
    each.classList.toggle("near", near.has(id));
    each.classList.toggle("pinned", view.pinned.has(id));
    const group = view.groups.findIndex((one) => one.nodes.includes(id));
    for (let n = 0; n < N_COLOURS; n++) each.classList.toggle(`g${n}`, group >= 0 && group % N_COLOURS === n);
    each.setAttribute("aria-pressed", String(id === view.chosen));
    each.setAttribute("tabindex", each === stop ? "0" : "-1");
  }
}

// From a node down to what supplies most of it, and up to where most of it goes.
function strongestChain(id) {
  const chain = new Set();
  for (const [side, end] of [["into", "source"], ["outOf", "target"]])
    for (let at = id, edge; (edge = strongest(view[side].get(at), side)) && !chain.has(edge); at = edge[end]) chain.add(edge);
  return chain;
}

function strongest(edges, side) {
  const size = (edge) => (side === "into" ? Math.abs(edge.weight) : edge.flow);
  return (edges ?? []).reduce((best, edge) => (!best || size(edge) > size(best) ? edge : best), null);
}

function choose(id, { focus = true } = {}) {
  view.chosen = id === view.chosen ? "" : id;
  refresh();
  if (view.chosen && focus) focusNode(view.chosen);
}

function focusNode(id) {
  const made = [...byId("graph").querySelectorAll(".node")].find((each) => each.dataset.id === id);
  made?.focus({ preventScroll: true });
  made?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function refresh() {
  draw();
  showCard();
  showGroups();
}

function togglePin(id) {
  if (!view.pinned.delete(id)) view.pinned.add(id);
  refresh();
}

function onKey(event) {
  const id = event.target.closest?.(".node")?.dataset.id;
  if (!id || event.ctrlKey || event.metaKey || event.altKey) return;
  const act = {
    Enter: () => choose(id),
    " ": () => choose(id),
    p: () => (togglePin(id), focusNode(id)),
    Escape: () => view.chosen && choose(view.chosen),
    ArrowLeft: () => step(id, -1),
    ArrowRight: () => step(id, 1),
    ArrowUp: () => climb(id, -1),
    ArrowDown: () => climb(id, 1),
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

function step(id, by) {
  const row = [...view.places].filter(([, at]) => at.row === view.places.get(id).row).map(([other]) => other).sort(before);
  moveTo(row[row.indexOf(id) + by]);
}

function climb(id, by) {
  const here = view.places.get(id);
  const above = [...view.places].filter(([, at]) => at.row !== here.row && Math.sign(at.y - here.y) === by);
  if (!above.length) return;
  const nearest = above.reduce((best, each) => (Math.abs(each[1].y - here.y) < Math.abs(best[1].y - here.y) ? each : best));
  const row = above.filter(([, at]) => at.row === nearest[1].row);
  moveTo(row.reduce((best, each) => (Math.abs(each[1].x - here.x) < Math.abs(best[1].x - here.x) ? each : best))[0]);
}

function moveTo(id) {
  if (!id) return;
  for (const each of byId("graph").querySelectorAll(".node")) each.setAttribute("tabindex", each.dataset.id === id ? "0" : "-1");
  focusNode(id);
}

function fact(name, value) {
  return element("div", "", element("dt", "", name), element("dd", "", value));
}

function pressed(text, className, act) {
  const made = element("button", className, text);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

function showCard() {
  const node = view.nodes.get(view.chosen);
  if (!node) {
    byId("card").replaceChildren(element("p", "quiet", "Choose a node to see what it is, what supplies it and what it supplies."));
    return;
  }
  const card = view.cards[node.id] ?? {};
  const parts = [element("h3", "called", element("bdi", "", named(node.id))), element("p", "quiet", element("code", "", visible(node.id)))];
  parts.push(element("p", "buttons", pressed(view.pinned.has(node.id) ? "Unpin" : "Pin", "", () => togglePin(node.id)), pressed("Close", "", () => choose(node.id))));
  parts.push(element("dl", "", ...facts(node)));
  for (const [name, title] of [["promotes", "Promotes"], ["suppresses", "Suppresses"]])
    if (card[name]?.length) parts.push(element("h4", "", title), element("p", "tokens", ...card[name].slice(0, 12).flatMap((token) => [element("code", "", spaced(token)), " "])));
  parts.push(...edgeList("What supplies it", view.into.get(node.id), "source"), ...edgeList("What it supplies", view.outOf.get(node.id), "target"));
  byId("card").replaceChildren(...parts);
}

function facts(node) {
  const made = [];
  const target = view.graph.targets.find((each) => each.id === node.id);
  if (target) made.push(fact("probability", number(target.prob)), fact(typeof target.against === "number" ? "logit difference" : "logit minus mean logit", number(target.value)));
  else made.push(fact("influence", percent(node.influence)));
  if (node.kind !== "logit") made.push(fact("at", element("span", "", element("code", "", spaced(node.token)), ` position ${node.pos}`)));
  if (typeof node.activation === "number") made.push(fact("activation", number(node.activation)));
  if (node.effect) made.push(fact("ablated: first target changes by", `${number(node.effect.frozen)}, predicted ${number(node.effect.predicted)}: ${verdictOf(node.effect)[0]}`));
  return made;
}

function edgeList(title, edges, end) {
  if (!edges.length) return [];
  const whole = edges.reduce((sum, edge) => sum + Math.abs(edge.weight), 0) || 1;
  const row = (edge) => {
    const [said, kind] = verdictOf(edge.effect);
    const share = end === "source" ? ` (${percent(Math.abs(edge.weight) / whole)})` : "";
    const other = pressed(cut(named(edge[end]), 60), "other", () => choose(edge[end]));
    const node = view.nodes.get(edge[end]);
    const where = node.layer !== null ? ` at \u201c${cut(spaced(node.token), 12)}\u201d ${node.pos}` : ` ${node.kind === "token" ? node.pos : ""}`;
    return element("li", edge.weight < 0 ? "minus" : "plus", other, element("span", "quiet", where), element("span", "n", ` ${edge.weight > 0 ? "+" : ""}${number(edge.weight)}${share}`), element("span", `badge ${kind}`, said));
  };
  const more = edges.length > MOST_ROWS ? [element("details", "", element("summary", "", `${edges.length - MOST_ROWS} more`), element("ul", "steps", ...edges.slice(MOST_ROWS, 200).map(row)))] : [];
  return [element("h4", "", title), element("ul", "steps", ...edges.slice(0, MOST_ROWS).map(row)), ...more];
}

function showGroups() {
  const pins = [...view.pinned].map((id) => element("li", "", pressed(cut(named(id), 40), "other", () => choose(id)), pressed("Unpin", "small", () => togglePin(id))));
  byId("pins").replaceChildren(...(pins.length ? pins : [element("li", "quiet", "None. Pinned nodes stay in sight, and become a group together.")]));
  byId("make-group").disabled = byId("pin-clear").disabled = !pins.length;
  byId("groups").replaceChildren(...view.groups.map(groupRow));
  writeLines();
}

function groupRow(group, at) {
  const name = document.createElement("input");
  Object.assign(name, { type: "text", value: visible(group.name), maxLength: 60 });
  name.setAttribute("aria-label", "Name of the group");
  name.addEventListener("input", () => { group.name = name.value; writeLines(); });
  const members = group.nodes.map((id) => (view.nodes.has(id) ? pressed(cut(named(id), 40), "other", () => choose(id)) : element("code", "", visible(id))));
  const drop = pressed("Remove", "small", () => { view.groups.splice(at, 1); refresh(); });
  return element("li", `group g${at % N_COLOURS}`, element("div", "row", name, drop), element("div", "members", ...members));
}

function makeGroup() {
  const nodes = [...view.pinned];
  view.groups = view.groups.map((group) => ({ ...group, nodes: group.nodes.filter((id) => !view.pinned.has(id)) })).filter((group) => group.nodes.length);
  view.groups.push({ name: byId("group-name").value.trim() || `group ${view.groups.length + 1}`, nodes });
  byId("group-name").value = "";
  view.pinned.clear();
  refresh();
}

// As the library reads them: `name: id id`.
function writeLines() {
  const plain = (name) => visible(name).replaceAll(":", " ").replace(/\s+/g, " ").trim() || "group";
  byId("lines").value = view.groups.map((group) => `${plain(group.name)}: ${group.nodes.join(" ")}`).join("\n");
  byId("copy").disabled = !view.groups.length;
}

async function copyGroups() {
  const lines = byId("lines");
  try {
    await navigator.clipboard.writeText(lines.value);
    byId("copied").textContent = "Copied.";
  } catch {
    lines.select();
    byId("copied").textContent = "Selected: copy it from the field.";
  }
}
