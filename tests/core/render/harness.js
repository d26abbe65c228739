"use strict";
// Tools of a page around the page under test, which leaves what it saw as JSON in the document. What looks at one kind of page says `run`.
const seen = { errors: [] };
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

function frame(html, { width, sandbox } = {}) {
  const made = document.createElement("iframe");
  made.style.cssText = `width:${width ?? 1000}px;height:1200px;border:0`;
  if (sandbox) made.setAttribute("sandbox", sandbox);
  made.srcdoc = html;
  document.body.append(made);
  return new Promise((done) => (made.onload = () => done(made)));
}

// The colour that is painted when each of these is laid over the one before.
function painted(colours) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d");
  for (const colour of ["white", ...colours]) {
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
  }
  return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}

function luminance(rgb) {
  const [r, g, b] = rgb.map((value) => value / 255).map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

// The least contrast of any text with what is behind it (WCAG 2).
function worstContrast(page) {
  let worst = { ratio: 21, text: "" };
  for (const element of page.body.querySelectorAll("*")) {
    const text = [...element.childNodes].filter((node) => node.nodeType === 3 && node.textContent.trim()).map((node) => node.textContent).join("");
    if (!text || /^(SCRIPT|STYLE)$/.test(element.tagName) || !element.checkVisibility()) continue;
    const behind = [];
    for (let at = element; at; at = at.parentElement) behind.unshift(page.defaultView.getComputedStyle(at).backgroundColor);
    const back = painted(behind);
    const [low, high] = [luminance(back), luminance(painted([`rgb(${back})`, page.defaultView.getComputedStyle(element).color]))].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < worst.ratio) worst = { ratio, text: text.slice(0, 40) };
  }
  return worst;
}

const background = (page) => luminance(painted([page.defaultView.getComputedStyle(page.documentElement).backgroundColor]));
const overflow = (page) => page.documentElement.scrollWidth - page.documentElement.clientWidth;
