// The page's shortcuts: which key does what, and the dialog that lists them.

import { el } from "./dom.js";
import { later } from "./later.js";

const isMac = /Mac|iPhone|iPad/.test(navigator.platform);
const COMMAND = isMac ? "⌘" : "Ctrl";
const SHORTCUTS = [
  ["Anywhere", [
    [[COMMAND, "K"], "Find a conversation"],
    [[COMMAND, "Shift", "O"], "New chat"],
    [["/"], "Write a message"],
    [["Esc"], "Stop the answer; close what is open"],
    [["?"], "These shortcuts"],
  ]],
  ["While you write", [
    [["Enter"], "Send"],
    [["Shift", "Enter"], "New line"],
  ]],
  ["In the list of conversations", [
    [["↑", "↓"], "Go through it"],
    [["Home", "End"], "To its beginning or end"],
    [["Enter"], "Open the conversation"],
    [["Shift", "F10"], "Its options: rename, pin, move, delete"],
    [["→", "←"], "To the options and back; unfold and fold a folder"],
  ]],
];

/** Call `actions.search()`, `.newChat()` and `.help()` by their keys, as long as `isReady()`. */
export function onShortcuts({ isReady, search, newChat, help }) {
  document.addEventListener("keydown", (event) => {
    const action = isReady() && !event.altKey && actionOf(event, { search, newChat, help });
    if (!action) return;
    event.preventDefault();
    action();
    // First of all: a dialog keeps its keys to itself.
  }, { capture: true });
}

function actionOf(event, { search, newChat, help }) {
  const { shiftKey, target } = event;
  const isFree = !document.querySelector("dialog[open]");
  const key = event.key.toLowerCase();
  if (isMac ? event.metaKey : event.ctrlKey) {
    if (key === "k" && !shiftKey) return search;
    return key === "o" && shiftKey && isFree ? newChat : null;
  }
  return key === "?" && isFree && !target.closest("input, textarea, select") ? help : null;
}

/** Show all of them. */
export const showShortcuts = () => later("./dialogs.js", ({ openDialog }) => {
  openDialog("Keyboard shortcuts", SHORTCUTS.map(([title, rows]) => el("section", { className: "shortcuts" }, el("h3", {}, title),
    el("dl", {}, ...rows.map(([keys, words]) => el("div", {}, el("dt", {}, words), el("dd", {}, ...keys.map((key) => el("kbd", {}, key)))))))));
});
