// Folders: a dialog that moves a conversation into one, or into a new one.

import { call } from "./api.js";
import { openDialog } from "./dialogs.js";
import { el } from "./dom.js";

const LONGEST = 100;

/** Ask where a conversation is to go; `move(folder)` is called with the folder's name, "" for none. */
export async function askForFolder({ name, folder }, move) {
  // The list may show only what was searched for, and this is about all folders.
  const { sessions } = await call("GET", "/sessions");
  const names = [...new Set(sessions.map((session) => session.folder).filter(Boolean))].sort((a, b) => a.localeCompare(b));
  const choose = (chosen) => (dialog.close(), move(chosen));
  const choice = (chosen, words) => el("li", {}, el("button", { type: "button", className: "wide", disabled: chosen === (folder ?? ""), onclick: () => choose(chosen) }, words));
  const field = el("input", { id: "folder-name", maxLength: LONGEST, required: true, autocomplete: "off" });
  const submit = (event) => {
    event.preventDefault();
    const wanted = field.value.trim();
    if (wanted) choose(wanted);
  };
  const dialog = openDialog(`Move “${name}”`, [
    ...(names.length ? [el("ul", { className: "choices" }, ...names.map((each) => choice(each, each)), ...(folder ? [choice("", "No folder")] : []))] : []),
    el("form", { className: "field", onsubmit: submit }, el("label", { for: field.id }, "New folder"),
      el("div", { className: "row" }, field, el("button", { className: "primary" }, "Move"))),
  ]);
  if (!names.length) field.focus();
}
