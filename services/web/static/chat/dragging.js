// Dragging conversations from one group of the list to another.

import { el } from "./dom.js";

const KIND = "application/x-hearth-session";

/**
 * Let the conversations of `list` be dragged. `drop(session, {kind, title})` is called for the group that one is let go
 * over, with the kind "new" over the place for a new folder; `end()` when the dragging has ended, whatever came of it.
 */
export function allowDragging(list, { drop, end }) {
  let dragged = null;
  const fresh = el("section", { className: "list-group new-folder", hidden: true }, "Drop here for a new folder");
  fresh.dataset.kind = "new";
  list.after(fresh);

  const mark = (group) => {
    for (const each of [...list.children, fresh]) each.classList.toggle("over", each === group);
  };
  const groupAt = (target) => {
    const group = target.closest(".list-group");
    return dragged && group && !group.contains(dragged) ? group : null;
  };
  list.addEventListener("dragstart", (event) => {
    const item = event.target.closest?.("li[data-session]");
    if (!item) return;
    dragged = item;
    item.classList.add("dragged");
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData(KIND, item.dataset.session);
    // A list that changes as it is taken hold of ends the dragging.
    setTimeout(() => (fresh.hidden = dragged === null));
  });
  list.addEventListener("dragend", () => {
    dragged?.classList.remove("dragged");
    dragged = null;
    fresh.hidden = true;
    mark(null);
    end();
  });
  for (const area of [list, fresh]) {
    area.addEventListener("dragover", (event) => {
      const group = groupAt(event.target);
      mark(group);
      if (group) event.preventDefault();
    });
    area.addEventListener("dragleave", () => mark(null));
    area.addEventListener("drop", (event) => {
      const group = groupAt(event.target);
      if (!group) return;
      event.preventDefault();
      drop(dragged.dataset.session, { kind: group.dataset.kind, title: group.dataset.title });
    });
  }
}
