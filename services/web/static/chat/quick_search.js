// Ctrl+K: find a conversation by its words from anywhere, with the keyboard alone.

import { call } from "./api.js";
import { openDialog } from "./dialogs.js";
import { ago, el } from "./dom.js";
import { withHits } from "./hits.js";

const SHOWN = 30;
const PAUSE = 120;

let opened = null;

/** Open the search, or close it where it is open; `choose(session)` is called with what was found. */
export function quickSearch(choose) {
  if (opened?.element.isConnected) return opened.close();
  const list = el("ul", { id: "quick-found", role: "listbox", "aria-label": "Conversations" });
  const state = el("p", { className: "faint", role: "status" });
  const field = el("input", { role: "combobox", placeholder: "Words, or a name", autocomplete: "off", autofocus: true, spellcheck: false,
    "aria-label": "Search all conversations", "aria-controls": list.id, "aria-expanded": "true", "aria-autocomplete": "list" });
  let timer;
  let turn = 0;
  let at = 0;

  const mark = (to) => {
    const options = [...list.children];
    at = Math.max(0, Math.min(to, options.length - 1));
    options.forEach((option, n) => option.setAttribute("aria-selected", String(n === at)));
    options[at]?.scrollIntoView({ block: "nearest" });
    if (options[at]) field.setAttribute("aria-activedescendant", options[at].id);
    else field.removeAttribute("aria-activedescendant");
  };
  const pick = (session) => {
    opened.close();
    choose(session);
  };
  const look = async () => {
    const mine = (turn += 1);
    const words = field.value.trim();
    try {
      const { sessions } = await call("GET", `/sessions?q=${encodeURIComponent(words)}`);
      if (mine !== turn) return;
      list.replaceChildren(...sessions.slice(0, SHOWN).map((session, n) => option(session, n, words, pick)));
      state.textContent = said(sessions.length, words);
      mark(0);
    } catch (error) {
      if (mine === turn) state.textContent = error.message;
    }
  };
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(look, PAUSE);
  });
  field.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1 }[event.key];
    if (to !== undefined) mark(to);
    else if (event.key === "Enter") list.children[at]?.click();
    else return;
    event.preventDefault();
  });
  opened = openDialog("Find a conversation", [field, list, state], { className: "quick" });
  look();
}

function option({ session_id: id, name, updated, folder, snippet }, n, words, pick) {
  const facts = [folder, ago(updated)].filter(Boolean).join(" · ");
  return el("li", { id: `quick-${n}`, role: "option", "aria-selected": "false", onclick: () => pick(id) },
    el("span", { className: "name" }, ...withHits(name || `Conversation ${id}`, words)), el("span", { className: "faint" }, facts),
    snippet ? el("span", { className: "snippet" }, ...withHits(snippet, words)) : null);
}

function said(count, words) {
  if (!count) return words ? "No conversation has these words." : "There are no conversations yet.";
  if (count > SHOWN) return `The latest ${SHOWN} of ${count}.`;
  return words ? `${count} found.` : "";
}
