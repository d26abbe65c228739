// Curves of runs over each other and histograms, as SVG with ticks, as wide as their place.
import { el, number } from "./parts.js";

const H = 260, LEFT = 56, BOTTOM = 28, TOP = 14, RIGHT = 12, REACH = 3, APART = 5;
const KINDS = ["one", "two"];

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Draws again whenever its place has another width.
export function sized(draw) {
  const place = el("div", { class: "drawn" });
  let last = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.round(entry.contentRect.width);
    if (width && width !== last) place.replaceChildren(draw((last = width)));
  }).observe(place);
  return place;
}

// Round numbers that span low to high.
export function ticks(low, high, n = 5) {
  const rough = (high - low) / n || Math.abs(high) || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough * (1 - 1e-9));
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step) found.push(Number(at.toPrecision(12)));
  return found;
}

// The range of the values without spikes, which lie far beyond the middle four fifths; the last ones are always within. The pictures have the same rule (svg.py).
export function usual(values, last) {
  const ordered = [...values].sort((a, b) => a - b), n = ordered.length;
  const tenth = n >= 4 ? Math.max(1, Math.floor(n / 10)) : 0;
  const low = ordered[tenth], high = ordered[n - 1 - tenth], reach = REACH * (high - low);
  const near = ordered.filter((value) => value >= low - reach && value <= high + reach);
  return widened(Math.min(near[0], ...last), Math.max(near.at(-1), ...last));
}

function widened(low, high) {
  if (high - low > 1e-9 * Math.max(Math.abs(low), Math.abs(high), 1e-300)) return [low, high];
  const room = Math.abs(high) / 10 || 1;
  return [low - room, high + room];
}

// What an axis shows of a number of trainings (pictures.py): shares and rates from 0, a loss in its usual range.
export function spanOf(name, series) {
  const values = series.flatMap(({ points }) => points.map(([, y]) => y)), top = Math.max(0, ...values);
  if (name === "dead_share" || name === "lr") return widened(0, top);
  if (name === "explained_variance") return widened(Math.max(Math.min(0, ...values), -0.25), top);
  const span = usual(values, series.map(({ points }) => points.at(-1)[1]));
  return name === "l0" ? widened(0, span[1]) : span;
}

const thin = (values, most) => values.filter((_, at) => at % Math.ceil(values.length / most) === 0);
const path = (points, x, y) => points.map(([step, value], at) => `${at ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");

// The points that lie outside of what is drawn, at the edge where they would be; of those side by side the first.
function spikes({ kind, points }, x, [low, high]) {
  let free = -Infinity;
  return points.filter(([step, value]) => {
    const marked = (value < low || value > high) && x(step) >= free;
    if (marked) free = x(step) + APART;
    return marked;
  }).map((point) => spike(kind, point, x, low));
}

function spike(kind, [step, value], x, low) {
  const [tip, base] = value < low ? [H - BOTTOM + 7, H - BOTTOM + 1] : [TOP - 10, TOP - 2];
  return svg("path", { class: `spike ${kind}`, d: `M${x(step).toFixed(1)} ${tip}l-5 ${base - tip}h10z` }, svg("title", {}, `${number(value)} at step ${number(step)}`));
}

function curves(W, drawn, faint, { label, span }) {
  const [low, high] = span, end = Math.max(1, ...drawn.map(({ points }) => points.at(-1)[0]));
  const x = (step) => LEFT + ((W - LEFT - RIGHT) * step) / end;
  const y = (value) => H - BOTTOM - ((H - BOTTOM - TOP) * (Math.min(high, Math.max(low, value)) - low)) / (high - low);
  const said = drawn.map(({ name, points }) => `${name}: ${number(points.at(-1)[1])} at step ${number(points.at(-1)[0])}`).join("; ");
  const picture = svg("svg", { class: "chart", viewBox: `0 0 ${W} ${H}`, width: W, height: H, role: "img", "aria-label": `${label}. ${said}.` });
  for (const each of ticks(low, high)) {
    picture.append(svg("line", { class: "tick", x1: LEFT, x2: W - RIGHT, y1: y(each), y2: y(each) }), svg("text", { x: LEFT - 6, y: y(each) + 4, "text-anchor": "end" }, number(each)));
  }
  for (const each of thin(ticks(0, end), Math.max(2, Math.floor(W / 90)))) picture.append(svg("text", { x: x(each), y: H - 6, "text-anchor": x(each) > W - 30 ? "end" : "middle" }, number(each)));
  for (const { name, points } of faint) picture.append(svg("path", { class: "faint", d: path(points, x, y) }, svg("title", {}, name)));
  for (const { kind, points } of drawn) {
    picture.append(svg("path", { class: kind, d: path(points, x, y) }));
    if (points.length === 1) picture.append(svg("circle", { class: kind, cx: x(points[0][0]), cy: y(points[0][1]), r: 3 }));
    picture.append(...spikes({ kind, points }, x, span));
  }
  return picture;
}

// How many points of the curves lie outside of what is drawn, and how far; empty: none.
function outside(drawn, [low, high]) {
  const far = drawn.flatMap(({ points }) => points.map(([, value]) => value)).filter((value) => value < low || value > high);
  if (!far.length) return "";
  const most = far.reduce((a, b) => (Math.max(low - b, b - high) > Math.max(low - a, a - high) ? b : a));
  return ` ${far.length === 1 ? "One point lies" : `${far.length} points lie`} outside of the picture (marked at its edge), at most ${number(most)}.`;
}

// `name` is the number's; `series`: up to two of {name, points: [[step, value], ...]}; `faint` the same, drawn thin behind them.
export function chart(name, label, series, faint = []) {
  const drawn = series.map((each, at) => ({ ...each, kind: KINDS[at] })).filter((each) => each.points.length);
  if (!drawn.length) return el("p", { class: "quiet" }, `No point of ${label} yet.`);
  const behind = faint.filter((each) => each.points.length), all = [...drawn, ...behind], span = spanOf(name, all);
  const names = drawn.map((each) => el("span", { class: `key ${each.kind}` }, each.name, ` ${number(each.points.at(-1)[1])}`));
  return el("figure", { "aria-label": label }, el("figcaption", {}, el("strong", {}, label), " by step. ", ...names, behind.length ? el("span", { class: "key thin" }, "each SAE") : "", outside(all, span)), sized((W) => curves(W, drawn, behind, { label, span })));
}

const share = (value) => `${number(100 * value, 2)} %`;

function bars(W, bins, never, label) {
  const shown = [...(never ? [{ n_features: never, never: true }] : []), ...bins], top = Math.max(...shown.map((bin) => bin.n_features));
  const wide = (W - LEFT - RIGHT) / shown.length, x = (at) => LEFT + at * wide, y = (n) => H - BOTTOM - ((H - BOTTOM - TOP) * n) / top;
  const picture = svg("svg", { class: "chart", viewBox: `0 0 ${W} ${H}`, width: W, height: H, role: "img", "aria-label": label });
  for (const each of ticks(0, top).filter(Number.isInteger)) picture.append(svg("line", { class: "tick", x1: LEFT, x2: W - RIGHT, y1: y(each), y2: y(each) }), svg("text", { x: LEFT - 6, y: y(each) + 4, "text-anchor": "end" }, number(each)));
  const every = Math.max(1, Math.ceil(58 / wide));
  shown.forEach((bin, at) => {
    const what = bin.never ? "never" : `${share(bin.low)} to ${share(bin.high)} of tokens`;
    picture.append(svg("rect", { class: bin.never ? "never" : "bin", x: x(at) + 0.04 * wide, width: 0.92 * wide, y: y(bin.n_features), height: Math.max(0, H - BOTTOM - y(bin.n_features)) }, svg("title", {}, `${what}: ${number(bin.n_features)} features`)));
    if (bin.never) picture.append(svg("text", { x: x(at) + wide / 2, y: H - 8, "text-anchor": "middle" }, "never"));
    else if ((shown.length - at) % every === 0 && !(never && at === 1 && wide < 58)) picture.append(svg("line", { class: "mark", x1: x(at), x2: x(at), y1: H - BOTTOM, y2: H - BOTTOM + 4 }), svg("text", { x: x(at), y: H - 8, "text-anchor": "middle" }, share(bin.low)));
  });
  return picture;
}

// How many features fire at how large a share of tokens: {low, high, n_features}; those that never fired stand apart on the left.
export function histogram(bins, never, caption) {
  if (!bins.length && !never) return el("p", { class: "quiet" }, "No feature was counted yet.");
  const fired = bins.reduce((sum, bin) => sum + bin.n_features, 0);
  const said = `${caption} ${number(fired)} features fired${never ? `, ${number(never)} never did` : ""}.`;
  return el("figure", { "aria-label": "Histogram" }, el("figcaption", {}, said), sized((W) => bars(W, bins, never, said)));
}
