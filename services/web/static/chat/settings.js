// The settings of one conversation. What is left empty, the profile decides.

import { call } from "./api.js";
import { el } from "./dom.js";
import * as store from "./store.js";
import { themeField } from "./theme.js";

const NUMBERS = [
  ["memory_k", "Memory", { min: 0, max: 1000, step: 1 },
    "memory_k: how many of the last exchanges the model reads again with each prompt. More remembers more, and takes longer. “All that fits” is as much as the model's context holds."],
  ["temperature", "Temperature", { min: 0, max: 2, step: "any" },
    "0 takes the likeliest word each time and answers alike; higher values vary more, and wander off sooner."],
  ["top_p", "Top p", { min: 0, max: 1, step: "any" },
    "Only the likeliest words are drawn from, as many as together have this probability. 1 draws from all."],
  ["max_tokens", "Longest answer", { min: 1, max: 1000000, step: 1 },
    "max_length, in tokens (about three quarters of a word each). A longer answer is cut there."],
];

// How the next token is chosen, for those who know.
const MORE = [
  ["top_k", "Top k", { min: 0, max: 100000, step: 1 }, "Only so many of the likeliest tokens are drawn from. 0 draws from all."],
  ["min_p", "Min p", { min: 0, max: 1, step: "any" }, "Tokens less likely than this share of the likeliest one are left out."],
  ["repeat_penalty", "Repeat penalty", { min: 0.01, max: 10, step: "any" }, "Above 1 the model repeats itself less."],
  ["presence_penalty", "Presence penalty", { min: -2, max: 2, step: "any" }, "Above 0 what was said once is less likely."],
  ["frequency_penalty", "Frequency penalty", { min: -2, max: 2, step: "any" }, "Above 0 what was said often is less likely."],
  ["seed", "Seed", { min: 0, max: 4294967294, step: 1 }, "The same seed draws the same answer to the same prompt."],
];
const EFFORTS = [["", "As the model likes"], ["none", "Not at all"], ["low", "A little"], ["medium", "Some"], ["high", "Long"]];
const EFFORT = "How much a model that thinks before it answers should think. Other models refuse it.";
const STOP = "One on each line. Where the model writes one of these, its answer ends.";

// What a system prompt does, by how the profile is prompted.
const SYSTEM = "What the model is to be and to do, before the conversation begins.";
const SYSTEM_HELP = {
  "": SYSTEM,
  template: `${SYSTEM} This profile has a template of its own, which says that already; with a system prompt the model's chat format is used in its place.`,
  "chat template": `${SYSTEM} It stands in the place of the profile's own, which is shown here until you write another.`,
};

/** The settings kept for a session; for a new chat, those that its first prompt will take along. */
export const settingsOf = (session) => store.read("settings", session ?? "new", session === null ? defaults : {});

let defaults = {};

/** From now on new chats begin with these settings. */
export const setDefaults = (settings) => (defaults = settings);

/** The fields of a session's requests that its settings set. */
export function fieldsOf(session) {
  const { files, ...fields } = settingsOf(session);
  return files?.length ? { ...fields, files: files.map(({ id }) => id) } : fields;
}

/** Keep a session's settings, here and with the session on the server; null is the new chat. */
export function keepSettings(session, settings) {
  store.keep("settings", session ?? "new", settings);
  if (session === null) return;
  store.keep("sent", session, false);
  turns.set(session, settingsTurn(session) + 1);
  send(session);
}

const turns = new Map();

/** A number that grows with each change of a session's settings in this page. */
export const settingsTurn = (session) => turns.get(session) ?? 0;

/**
 * The server has told a session, which was asked for at `turn`: its settings follow the person from one device to another.
 * Returns whether they are others.
 */
export function takeSettings({ session_id: session, settings }, turn) {
  const own = settingsOf(session);
  const sent = store.read("sent", session, null);
  if (sent === false || (sent === null && Object.keys(own).length)) {
    send(session);
    return false;
  }
  // What was told before the last change is older than that.
  if (turn !== settingsTurn(session)) return false;
  store.keep("sent", session, true);
  if (JSON.stringify(own) === JSON.stringify(settings)) return false;
  store.keep("settings", session, settings);
  return true;
}

let sending = Promise.resolve();

/** Send a session's settings, behind those that are on their way. */
function send(session) {
  sending = sending.then(() => (store.read("sent", session, false) ? null : put(session)));
}

async function put(session) {
  const settings = settingsOf(session);
  try {
    await call("PATCH", `/answer/${session}`, { settings });
    if (JSON.stringify(settings) === JSON.stringify(settingsOf(session))) store.keep("sent", session, true);
  } catch {
    // It is not stored yet, or the server is away: they are sent when it is read again.
  }
}

/**
 * Show the settings of `session()`; `onchange` is called when they change, and `save` by its button. `assistants(session,
 * onassistants)` makes the part about assistants.
 */
export function openSettings(body, { session, onchange, save, assistants, onassistants }) {
  const fields = new Map();
  // The model is chosen at the top of the conversation.
  const modelOf = ({ model, files }) => ({ ...(model ? { model } : {}), ...(files ? { files } : {}) });
  const keepAll = () => {
    const settings = modelOf(settingsOf(session()));
    for (const [name, field] of fields) {
      if (!field.reportValidity()) return;
      if (field.value !== "") settings[name] = valueOf(name, field);
    }
    keepSettings(session(), settings);
    onchange();
  };
  const add = (name, label, field, help) => {
    const tip = `help-${name}`;
    field.id = `setting-${name}`;
    field.setAttribute("aria-describedby", tip);
    field.addEventListener("change", keepAll);
    fields.set(name, field);
    return el("div", { className: "field" },
      el("div", { className: "label" }, el("label", { for: field.id }, label),
        el("button", { type: "button", className: "help", "aria-label": "Help", "aria-describedby": tip }, "?"),
        el("span", { id: tip, className: "tip", role: "tooltip" }, help)),
      field);
  };
  const system = el("textarea", { rows: 4 });
  const numbered = ([name, label, limits, help]) => add(name, label, el("input", { type: "number", inputMode: "decimal", ...limits }), help);
  const effort = el("select", {}, ...EFFORTS.map(([value, label]) => el("option", { value }, label)));
  const more = el("details", { className: "more" }, el("summary", {}, "More"), ...MORE.map(numbered),
    add("stop", "Stop texts", el("textarea", { rows: 2, spellcheck: false }), STOP), add("reasoning_effort", "Thinking", effort, EFFORT));
  const reset = () => {
    keepSettings(session(), modelOf(settingsOf(session())));
    onchange();
    fill();
  };
  body.replaceChildren(
    el("p", { className: "faint" }, "For this conversation only, and kept with it."),
    add("system_prompt", "System prompt", system, SYSTEM),
    ...NUMBERS.map(numbered),
    more,
    el("button", { type: "button", className: "wide", onclick: reset }, "Reset to the profile's settings"),
    el("button", { type: "button", className: "wide", onclick: save }, "Save the conversation as a file"),
    assistants(session, onassistants),
    themeField(),
  );

  let models = null;
  function fill() {
    const settings = settingsOf(session());
    for (const [name, field] of fields) field.value = [settings[name] ?? ""].flat().join("\n");
    more.open ||= [...more.querySelectorAll("input, textarea, select")].some(({ value }) => value !== "");
    defaults();
  }
  function defaults() {
    const chosen = models?.profile_details[settingsOf(session()).model || models.selected];
    for (const [name] of MORE) fields.get(name).placeholder = String(chosen?.[name] ?? "");
    for (const [name] of NUMBERS) fields.get(name).placeholder = chosen ? String(chosen[name] ?? "all that fits") : "";
    system.placeholder = !chosen ? "" : chosen.prompted_by === "template" ? "None: the profile's own template" : chosen.system_prompt || "None";
    body.querySelector("#help-system_prompt").textContent = SYSTEM_HELP[chosen?.prompted_by ?? ""];
  }
  fill();
  call("GET", "/models").then((found) => {
    models = found;
    defaults();
  }, () => {});
  return { refresh: fill };
}

/** What a field's text means in a request. */
function valueOf(name, { type, value }) {
  if (name === "stop") return value.split("\n").filter(Boolean);
  return type === "number" ? Number(value) : value;
}
