// Curves of runs over each other, as SVG with ticks; a spike does not squeeze the rest.
import { el, number } from "./window.js";

const W = 800, H = 260, LEFT = 60, BOTTOM = 30, TOP = 10, RIGHT = 10;
const KINDS = ["one", "two"];

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Round numbers that span low to high.
export function ticks(low, high, n = 5) {
  const rough = (high - low) / n || Math.abs(high) || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(Number(at.toPrecision(12)));
  return found;
}

// The range of the middle 96 % of the values, and of each curve's last one.
export function range(series) {
  const values = series.flatMap((each) => each.points.map(([, y]) => y)).sort((a, b) => a - b);
  const last = series.map((each) => each.points.at(-1)[1]);
  const low = Math.min(values[Math.floor(0.02 * (values.length - 1))], ...last);
  const high = Math.max(values[Math.ceil(0.98 * (values.length - 1))], ...last);
  return low === high ? [low - (Math.abs(low) || 1) / 10, high + (Math.abs(high) || 1) / 10] : [low, high];
}

// `series`: up to two of {name, points: [[step, value], ...]}.
export function chart(series, label) {
  const drawn = series.filter((each) => each.points.length);
  if (!drawn.length) return el("p", { class: "quiet" }, `No point of ${label} yet.`);
  const [low, high] = range(drawn), end = Math.max(1, ...drawn.map((each) => each.points.at(-1)[0]));
  const x = (step) => LEFT + ((W - LEFT - RIGHT) * step) / end;
  const y = (value) => H - BOTTOM - ((H - BOTTOM - TOP) * (Math.min(high, Math.max(low, value)) - low)) / (high - low);
  const said = drawn.map((each) => `${each.name}: ${number(each.points.at(-1)[1])} at step ${number(each.points.at(-1)[0])}`).join("; ");
  const picture = svg("svg", { class: "chart", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${label}. ${said}.` });
  for (const each of ticks(low, high)) {
    picture.append(svg("line", { class: "tick", x1: LEFT, x2: W - RIGHT, y1: y(each), y2: y(each) }), svg("text", { x: LEFT - 6, y: y(each) + 4, "text-anchor": "end" }, number(each)));
  }
  for (const each of ticks(0, end)) picture.append(svg("text", { x: x(each), y: H - 10, "text-anchor": "middle" }, number(each)));
  drawn.forEach((each) => picture.append(svg("path", { class: KINDS[series.indexOf(each)], d: each.points.map(([step, value], at) => `${at ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("") })));
  const names = series.map((each, at) => el("span", { class: `key ${KINDS[at]}` }, each.name, each.points.length ? ` ${number(each.points.at(-1)[1])}` : ""));
  return el("figure", {}, picture, el("figcaption", {}, `${label} by step. `, ...names));
}
