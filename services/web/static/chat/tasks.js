// Lists of tasks: boxes that say what is done, each with its words as its label. Only the model can tick one.

import { el } from "./dom.js";

const BLOCKS = "p, ul, ol, pre, blockquote, table, h1, h2, h3, h4, h5, h6, hr, div";

/** Put a box in the place of each mark of a task in an element. */
export function showTasks(element) {
  for (const mark of element.querySelectorAll("span.task")) {
    const label = el("label", {}, el("input", { type: "checkbox", disabled: true, checked: mark.textContent === "x" }));
    mark.replaceWith(label);
    while (label.nextSibling && !label.nextSibling.matches?.(BLOCKS)) label.append(label.nextSibling);
    label.closest("li")?.classList.add("task-item");
  }
}
