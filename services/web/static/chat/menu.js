// A menu that comes up at its button: arrows move in it, Enter or a click chooses, Esc closes it.

import { byId, el } from "./dom.js";

const GAP = 4;

/**
 * Open a menu at `button`. `entries` are {words, onchoose, isDanger}; `back()` is to give the focus back, before anything is
 * chosen and where nothing is.
 */
export function openMenu(button, label, entries, back = () => button.focus()) {
  const close = () => {
    menu.hidePopover();
    back();
  };
  const items = entries.map(({ words, onchoose, isDanger }) =>
    el("button", { type: "button", role: "menuitem", tabIndex: -1, className: isDanger ? "danger" : "", onclick: () => (close(), onchoose()) }, words));
  const menu = el("div", { className: "menu", role: "menu", "aria-label": label, popover: "auto" }, ...items);
  menu.addEventListener("keydown", (event) => {
    // What is pressed here is for nobody else.
    event.stopPropagation();
    const at = items.indexOf(event.target);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
    if (to !== undefined) items.at(to % items.length).focus();
    else if (event.key === "Escape" || event.key === "Tab") close();
    else return;
    event.preventDefault();
  });
  // The key that opens a menu would open the browser's as well, where it has moved the focus to.
  menu.addEventListener("contextmenu", (event) => event.preventDefault());
  menu.addEventListener("toggle", ({ newState }) => {
    if (newState === "open") return;
    button.setAttribute("aria-expanded", "false");
    menu.remove();
  });
  byId("sidebar").append(menu);
  menu.showPopover();
  button.setAttribute("aria-expanded", "true");
  place(menu, button.getBoundingClientRect());
  items[0].focus();
}

/** Put it below the button, or above where there is no room, and always inside the window. */
function place(menu, at) {
  const { offsetWidth: width, offsetHeight: height } = menu;
  const below = at.bottom + GAP + height <= innerHeight;
  menu.style.left = `${Math.max(GAP, Math.min(at.left, innerWidth - width - GAP))}px`;
  menu.style.top = `${Math.max(GAP, below ? at.bottom + GAP : at.top - GAP - height)}px`;
}
