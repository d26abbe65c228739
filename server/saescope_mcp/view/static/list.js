// A list of any length: only the rows in sight exist.
import { el } from "./window.js";

export const ROW = 44;
export const PAGE = 60;
const AROUND = 8;

export class List {
  // fetchRows(offset, limit) gives rows; draw(row) the children of one; open(row) what Enter does.
  constructor({ label, draw, open }) {
    this.draw = draw;
    this.open = open;
    this.space = el("div", { class: "space" });
    this.box = el("div", { class: "list", role: "listbox", tabindex: "0", "aria-label": label, onscroll: () => this.later(), onkeydown: (event) => this.key(event) }, this.space);
    this.nodes = new Map();
    new ResizeObserver(() => this.later()).observe(this.box);
  }

  show(total, fetchRows, at = 0) {
    this.total = total;
    this.fetchRows = fetchRows;
    this.pages = new Map();
    this.at = Math.min(at, Math.max(0, total - 1));
    this.space.style.height = `${total * ROW}px`;
    this.clear();
    this.box.scrollTop = Math.max(0, this.at * ROW - this.box.clientHeight / 3);
    this.later();
  }

  clear() {
    this.nodes.clear();
    this.space.replaceChildren();
    this.box.removeAttribute("aria-activedescendant");
  }

  later() {
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = null;
      this.paint();
    });
  }

  row(index) {
    const page = Math.floor(index / PAGE), known = this.pages.get(page);
    if (known) return known[index % PAGE];
    this.want(page);
    return undefined;
  }

  // A page is asked for once the scrolling rests on it: flying over a thousand asks for none.
  want(page) {
    clearTimeout(this.timer);
    this.wanted = (this.wanted ?? new Set()).add(page);
    this.timer = setTimeout(() => {
      const first = Math.floor(this.box.scrollTop / ROW / PAGE), last = Math.floor((this.box.scrollTop + this.box.clientHeight) / ROW / PAGE);
      for (const each of this.wanted) if (each >= first - 1 && each <= last + 1) this.fetch(each);
      this.wanted.clear();
    }, 60);
  }

  async fetch(page) {
    if (this.pages.has(page)) return;
    this.pages.set(page, []);
    const pages = this.pages;
    try {
      pages.set(page, await this.fetchRows(page * PAGE, PAGE));
    } catch (error) {
      pages.delete(page);
      this.box.dispatchEvent(new CustomEvent("refused", { detail: error }));
      return;
    }
    if (pages !== this.pages) return;
    for (const [index, node] of this.nodes) if (Math.floor(index / PAGE) === page) this.fill(node, index);
  }

  paint() {
    if (this.total === undefined) return;
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - AROUND);
    const last = Math.min(this.total, Math.ceil((this.box.scrollTop + this.box.clientHeight) / ROW) + AROUND);
    for (const [index, node] of this.nodes) {
      if (index < first || index >= last) {
        node.remove();
        this.nodes.delete(index);
      }
    }
    const fresh = document.createDocumentFragment();
    for (let index = first; index < last; index++) {
      if (!this.nodes.has(index)) fresh.append(this.made(index));
    }
    this.space.append(fresh);
    this.mark();
  }

  made(index) {
    const node = el("div", { class: "row", role: "option", id: `row-${index}`, "aria-setsize": this.total, "aria-posinset": index + 1, onclick: () => { this.move(index); this.act(); } });
    node.style.transform = `translateY(${index * ROW}px)`;
    this.nodes.set(index, node);
    this.fill(node, index);
    return node;
  }

  fill(node, index) {
    const row = this.row(index);
    node.replaceChildren(...(row ? this.draw(row) : [el("span", { class: "quiet" }, "\u2026")]));
  }

  mark() {
    for (const [index, node] of this.nodes) node.setAttribute("aria-selected", String(index === this.at));
    if (this.nodes.has(this.at)) this.box.setAttribute("aria-activedescendant", `row-${this.at}`);
  }

  move(to) {
    this.at = Math.max(0, Math.min(this.total - 1, to));
    const top = this.at * ROW, height = this.box.clientHeight;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + ROW > this.box.scrollTop + height) this.box.scrollTop = top + ROW - height;
    this.paint();
  }

  act() {
    const row = this.row(this.at);
    if (row) this.open(row);
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.box.clientHeight / ROW) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -this.total, End: this.total };
    if (event.key in steps) this.move(this.at + steps[event.key]);
    else if (event.key === "Enter" || event.key === " ") this.act();
    else return;
    event.preventDefault();
  }
}
