// A dialog over the page: Esc, its cross, or a click beside it closes it, and the focus goes back to where it was.

import { el, iconButton } from "./dom.js";

/** Open a dialog with a title; `body` are its elements. Returns {element, close}. */
export function openDialog(title, body, { className = "" } = {}) {
  const heading = el("h2", { id: "dialog-title" }, title);
  const close = () => element.close();
  const element = el("dialog", { className: `dialog ${className}`, "aria-labelledby": heading.id },
    el("div", { className: "row" }, heading, iconButton("close", "Close", close)), ...body);
  // What is pressed here is not the page's; Esc is the dialog's own.
  element.addEventListener("keydown", (event) => event.stopPropagation());
  element.addEventListener("click", (event) => event.target === element && close());
  element.addEventListener("close", () => element.remove());
  document.body.append(element);
  element.showModal();
  return { element, close };
}
