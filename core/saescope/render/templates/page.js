"use strict";
// The page is whole without this: it only adds a choice of theme.
const button = document.getElementById("theme");
const themes = ["automatic", "light", "dark"];
let chosen = 0;
button.hidden = false;
button.addEventListener("click", () => {
  chosen = (chosen + 1) % themes.length;
  if (chosen) document.documentElement.dataset.theme = themes[chosen];
  else delete document.documentElement.dataset.theme;
  button.textContent = `Theme: ${themes[chosen]}`;
});
