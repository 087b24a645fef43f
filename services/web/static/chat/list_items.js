// What the list of conversations is made of: groups, conversations, and the field for another name.

import { ago, el, icon, iconButton } from "./dom.js";
import { withHits } from "./hits.js";

/** A group under its title. A folder's title is a button, which folds it; `fold(isFolded)` is called where it is pressed. */
export function groupSection({ kind, title, sessions }, items, { isFolded, fold }) {
  const isFolder = kind === "folder";
  const name = isFolder
    ? el("button", { type: "button", className: "group-name stop", "aria-expanded": String(!isFolded), onclick: () => fold(!isFolded) },
      icon("fold"), el("span", { className: "folder-name" }, title), el("span", { className: "count" }, String(sessions.length)))
    : el("h2", { className: "group-name" }, title);
  if (isFolder) {
    name.dataset.folder = title;
    name.addEventListener("keydown", (event) => {
      const folds = { ArrowLeft: true, ArrowRight: false }[event.key];
      if (folds === undefined || folds === isFolded) return;
      event.preventDefault();
      fold(folds);
    });
  }
  const list = isFolded || !items.length ? null : el("ul", { "aria-label": title }, ...items);
  const section = el("section", { className: "list-group" }, isFolder ? el("h2", {}, name) : name, list);
  section.dataset.kind = kind;
  section.dataset.title = title;
  return section;
}

/** A conversation: a link, and the button of its menu, which `openMenu(button)` opens. */
export function sessionItem({ session_id: id, name, updated, folder, snippet, isBegun, isFailed }, { isOpen, words, openMenu }) {
  const shown = name || `Conversation ${id}`;
  const when = updated ? new Date(updated).toLocaleString() : "";
  const link = el("a", { href: `#/${id}`, className: "stop", title: [shown, when].filter(Boolean).join("\n"), draggable: false, "aria-current": isOpen ? "page" : null },
    el("span", { className: "name" }, ...withHits(shown, words)),
    isBegun ? el("span", { className: "faint" }, isFailed ? "not answered" : "being answered")
      : el("time", { dateTime: updated ?? "", className: words ? "" : "hidden" }, ago(updated)),
    snippet ? el("span", { className: "snippet" }, ...withHits(snippet, words)) : null,
    words && folder ? el("span", { className: "snippet" }, `in ${folder}`) : null);
  const item = el("li", {}, link);
  item.dataset.session = id;
  if (isBegun) return item;
  item.draggable = true;
  const button = iconButton("more", `Options for ${shown}`, () => openMenu(button));
  button.tabIndex = -1;
  button.setAttribute("aria-haspopup", "menu");
  button.setAttribute("aria-expanded", "false");
  button.classList.add("options");
  item.append(button);
  item.addEventListener("keydown", (event) => {
    if (event.key === "ContextMenu" || (event.key === "F10" && event.shiftKey)) openMenu(button);
    else if (event.key === "ArrowRight" && event.target === link) button.focus();
    else if (event.key === "ArrowLeft" && event.target === button) link.focus();
    else return;
    event.preventDefault();
  });
  return item;
}

/** A form for another name; `save(name)` resolves to whether it was saved, `done()` is called where nothing is to change. */
export function renameForm(name, { save, done }) {
  const field = el("input", { value: name, maxLength: 200, "aria-label": "Name of the conversation", required: true });
  const submit = (event) => {
    event.preventDefault();
    const wanted = field.value.trim();
    if (wanted) save(wanted);
    else field.reportValidity();
  };
  const form = el("form", { onsubmit: submit }, field, el("button", {}, "Save"));
  form.addEventListener("keydown", (event) => {
    // Neither the page's keys nor the list's.
    event.stopPropagation();
    if (event.key === "Escape") done();
  });
  return { form, field };
}
