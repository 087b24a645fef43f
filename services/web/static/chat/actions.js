// The buttons below a message.

import { announce, el, iconButton } from "./dom.js";

// A button that deletes asks once; so long, in milliseconds, it waits for the second press.
const PATIENCE = 5000;

/** The buttons below message `n`: those of `buttons` that are there, and which of its branches is open. */
export function actionsOf(message, n, handlers, ...buttons) {
  return el("div", { className: "actions" }, branchSwitch(message, n, handlers), ...buttons);
}

/** "‹ 2/3 ›" where several branches begin at a message; null for the others. */
function branchSwitch({ branch, branches }, n, { open }) {
  if (!branches) return null;
  const to = (number, sign, label) => el("button", { type: "button", className: "icon-button idle-only", "aria-label": label, title: label,
    disabled: number < 1 || number > branches, onclick: () => open(n, number) }, sign);
  return el("span", { className: "branches", role: "group", "aria-label": `Version ${branch} of ${branches}` },
    to(branch - 1, "‹", "Earlier version"), el("span", { "aria-hidden": "true" }, `${branch}/${branches}`), to(branch + 1, "›", "Later version"));
}

/** A button that can be pressed while nothing is being answered. */
export function idleButton(sign, label, onclick) {
  const button = iconButton(sign, label, onclick);
  button.classList.add("idle-only");
  return button;
}

/** A button that calls `remove()` when it is pressed twice. */
export function deleteButton(label, remove) {
  const button = idleButton("trash", label, () => {
    if (button.classList.contains("sure")) {
      button.classList.remove("sure");
      return remove();
    }
    button.classList.add("sure");
    button.title = `${label}: press again`;
    button.setAttribute("aria-label", button.title);
    announce(button.title);
    setTimeout(() => {
      button.classList.remove("sure");
      button.title = label;
      button.setAttribute("aria-label", label);
    }, PATIENCE);
  });
  return button;
}
