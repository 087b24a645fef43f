// Assistants: settings under a name with which a new chat can begin, and the settings with which every one does.

import { call } from "./api.js";
import { el, iconButton, toast } from "./dom.js";
import { keepSettings, setDefaults, settingsOf } from "./settings.js";

/** Read the settings with which new chats begin. */
export async function readDefaults() {
  const { new_chat: settings } = await call("GET", "/settings").catch(() => ({ new_chat: {} }));
  setDefaults(settings);
}

/** The assistants below the heading of a new chat. */
export class Beginnings {
  /** `onchange()` is called when another is chosen, `write(words)` with words to begin with. */
  constructor({ onchange, write }) {
    this.onchange = onchange;
    this.write = write;
    this.chosen = null;
    this.list = el("div", { className: "assistants", role: "group", "aria-label": "Assistants" });
    this.words = el("div", { className: "first-words" });
    this.element = el("div", { hidden: true }, this.list, this.words);
  }

  /** Read anew which there are. */
  async refresh() {
    const { assistants } = await call("GET", "/assistants").catch(() => ({ assistants: [] }));
    this.assistants = assistants;
    this.chosen = assistants.find(({ id }) => id === this.chosen?.id) ?? null;
    this.#draw();
  }

  #draw() {
    this.element.hidden = !this.assistants.length;
    this.list.replaceChildren(...this.assistants.map((assistant) => el("button", { type: "button", "aria-pressed": String(assistant === this.chosen),
      onclick: () => this.#choose(assistant) }, assistant.name)));
    this.words.replaceChildren(...(this.chosen?.first_words ?? []).map((words) => el("button", { type: "button", onclick: () => this.write(words) }, words)));
  }

  #choose(assistant) {
    const isOff = assistant === this.chosen;
    this.chosen = isOff ? null : assistant;
    keepSettings(null, isOff ? {} : assistant.settings);
    this.#draw();
    this.list.querySelectorAll("button")[this.assistants.indexOf(assistant)].focus();
    this.onchange();
  }
}

/** The part of the settings' panel that makes assistants of the settings of `session()`; `onchange()` hears of each change. */
export function assistantFields(session, onchange) {
  const name = el("input", { id: "assistant-name", maxLength: 100, required: true, autocomplete: "off" });
  const words = el("textarea", { id: "assistant-words", rows: 2 });
  const isLent = el("input", { id: "assistant-lent", type: "checkbox" });
  const list = el("ul", { className: "rows" });
  // Files are one's own: others cannot read them.
  const mine = () => {
    const { files, ...settings } = settingsOf(session());
    return settings;
  };
  const tell = async (work, said) => {
    try {
      await work();
      toast(said);
    } catch (error) {
      toast(error.message, { isError: true });
    }
    await draw();
    onchange();
  };
  const save = (event) => {
    event.preventDefault();
    const body = { name: name.value.trim(), settings: isLent.checked ? mine() : settingsOf(session()), first_words: words.value.split("\n").map((line) => line.trim()).filter(Boolean),
      readers: isLent.checked ? "everybody" : [] };
    if (!body.name) return name.reportValidity();
    tell(async () => {
      await call("POST", "/assistants", body);
      name.value = words.value = "";
      isLent.checked = false;
    }, `New chats can begin with ${body.name} now`);
  };
  const row = ({ id, name: called, readers }) => el("li", { className: "row" }, el("strong", {}, called),
    el("span", { className: "faint" }, readers === "everybody" ? "for everybody" : readers.length ? `for ${readers.length} more` : "for you"),
    iconButton("trash", `Delete ${called}`, () => tell(() => call("DELETE", `/assistants/${id}`), `${called} is deleted`)));
  async function draw() {
    const { assistants } = await call("GET", "/assistants").catch(() => ({ assistants: [] }));
    list.replaceChildren(...assistants.filter(({ readers }) => readers !== null).map(row));
  }
  draw();
  return el("details", { className: "more" }, el("summary", {}, "New chats and assistants"),
    el("button", { type: "button", className: "wide", onclick: () => tell(async () => {
      await call("PATCH", "/settings", { new_chat: mine() });
      setDefaults(mine());
    }, Object.keys(mine()).length ? "New chats begin with these settings" : "New chats begin with the profile's settings") }, "Begin every new chat with these settings"),
    el("form", { className: "group", onsubmit: save },
      el("h3", {}, "Save these settings as an assistant"),
      el("label", { for: "assistant-name" }, "Name"), name,
      el("label", { for: "assistant-words" }, "First words, one suggestion on each line"), words,
      el("label", { className: "row" }, isLent, " Everybody who has a key may use it"),
      el("button", {}, "Save the assistant")),
    list);
}
