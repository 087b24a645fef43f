// Light or dark: as the device is set, unless this browser is told otherwise.

import { el } from "./dom.js";
import { keepTheme, readTheme } from "./store.js";

const THEMES = [["", "As the device"], ["light", "Light"], ["dark", "Dark"]];

/** Show the page in the theme that was chosen in this browser. */
export function applyTheme() {
  document.documentElement.style.colorScheme = readTheme();
}

/** A field that chooses the theme. */
export function themeField() {
  const select = el("select", { id: "theme" }, ...THEMES.map(([value, label]) => el("option", { value }, label)));
  select.value = readTheme();
  select.addEventListener("change", () => {
    keepTheme(select.value);
    applyTheme();
  });
  return el("div", { className: "field" }, el("label", { for: "theme" }, "Appearance, in this browser"), select);
}
