// The settings of one conversation. What is left empty, the profile decides.

import { call } from "./api.js";
import { el } from "./dom.js";
import * as store from "./store.js";

const NUMBERS = [
  ["memory_k", "Memory", { min: 0, max: 1000, step: 1 },
    "memory_k: how many of the last exchanges the model reads again with each prompt. More remembers more, and takes longer."],
  ["temperature", "Temperature", { min: 0, max: 2, step: "any" },
    "0 takes the likeliest word each time and answers alike; higher values vary more, and wander off sooner."],
  ["top_p", "Top p", { min: 0, max: 1, step: "any" },
    "Only the likeliest words are drawn from, as many as together have this probability. 1 draws from all."],
  ["max_tokens", "Longest answer", { min: 1, max: 1000000, step: 1 },
    "max_length, in tokens (about three quarters of a word each). A longer answer is cut there."],
];

/** The settings kept for a session; for a new chat, those that its first prompt will take along. */
export const settingsOf = (session) => store.read("settings", session ?? "new", {});

/** Show the settings of `session()`; `onchange` is called when they change, `openModels` and `save` by their buttons. */
export function openSettings(body, { session, onchange, openModels, save }) {
  const fields = new Map();
  const keepAll = () => {
    const settings = {};
    for (const [name, field] of fields) {
      if (!field.reportValidity()) return;
      if (field.value !== "") settings[name] = field.type === "number" ? Number(field.value) : field.value;
    }
    store.keep("settings", session() ?? "new", settings);
    onchange();
  };
  const add = (name, label, field, help) => {
    const tip = `help-${name}`;
    field.id = `setting-${name}`;
    field.setAttribute("aria-describedby", tip);
    field.addEventListener("change", keepAll);
    fields.set(name, field);
    return el("div", { className: "field" },
      el("div", { className: "label" }, el("label", { for: field.id, title: help }, label),
        el("button", { type: "button", className: "help", "aria-label": "Help", "aria-describedby": tip }, "?"),
        el("span", { id: tip, className: "tip", role: "tooltip" }, help)),
      field);
  };
  const profile = el("select", {}, el("option", { value: "" }, "The server's choice"));
  const system = el("textarea", { rows: 4, placeholder: "None: the profile's own template" });
  const numbers = NUMBERS.map(([name, label, limits, help]) => add(name, label, el("input", { type: "number", inputMode: "decimal", ...limits }), help));
  const reset = () => {
    store.keep("settings", session() ?? "new", {});
    onchange();
    fill();
  };
  body.replaceChildren(
    el("p", { className: "faint" }, "For this conversation only, and kept with it in this browser."),
    add("model", "Profile", profile, "A profile names a model and says how it is used. The server's choice is the one selected for everybody."),
    el("button", { type: "button", className: "link", onclick: openModels }, "Switch the server's model…"),
    add("system_prompt", "System prompt", system, "What the model is to be and to do, before the conversation begins. With one, the model's own chat format is used instead of the profile's template."),
    ...numbers,
    el("button", { type: "button", className: "wide", onclick: reset }, "Reset to the profile's settings"),
    el("button", { type: "button", className: "wide", onclick: save }, "Save the conversation as a file"),
  );

  let models = null;
  function fill() {
    const settings = settingsOf(session());
    offer(settings.model);
    for (const [name, field] of fields) field.value = settings[name] ?? "";
    defaults();
  }
  /** The profiles there are, and the one that is set, even where there is none of its name. */
  function offer(chosen) {
    const names = models?.profiles ?? [];
    const others = chosen && !names.includes(chosen) ? [chosen] : [];
    profile.replaceChildren(el("option", { value: "" }, models ? `The server's choice (${models.selected})` : "The server's choice"),
      ...names.map((name) => el("option", { value: name }, `${name} · ${models.profile_details[name].model}`)),
      ...others.map((name) => el("option", { value: name }, models ? `${name} (there is no such profile)` : name)));
    profile.value = chosen ?? "";
  }
  function defaults() {
    const chosen = models?.profile_details[profile.value || models.selected];
    for (const [name] of NUMBERS) fields.get(name).placeholder = chosen ? String(chosen[name]) : "";
  }
  profile.addEventListener("change", defaults);
  fill();
  call("GET", "/models").then((found) => {
    models = found;
    offer(profile.value || undefined);
    defaults();
  }, () => {});
  return { refresh: fill };
}
