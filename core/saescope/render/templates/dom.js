"use strict";
// What the views share. All text goes in by textContent.
const byId = (id) => document.getElementById(id);

const visible = (text) =>
  String(text).replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu, (char) =>
    char === "\n" ? "\u21b5" : `\u27e8U+${char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`);
const number = (value) => (typeof value === "number" ? String(Number(value.toPrecision(3))) : "unknown");

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children.filter((child) => child !== null));
  return made;
}
