// The settings of one conversation. What is left empty, the profile decides.

import { call } from "./api.js";
import { el } from "./dom.js";
import * as store from "./store.js";

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

// What a system prompt does, by how the profile is prompted.
const SYSTEM = "What the model is to be and to do, before the conversation begins.";
const SYSTEM_HELP = {
  "": SYSTEM,
  template: `${SYSTEM} This profile has a template of its own, which says that already; with a system prompt the model's chat format is used in its place.`,
  "chat template": `${SYSTEM} It stands in the place of the profile's own, which is shown here until you write another.`,
};

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
      el("div", { className: "label" }, el("label", { for: field.id }, label),
        el("button", { type: "button", className: "help", "aria-label": "Help", "aria-describedby": tip }, "?"),
        el("span", { id: tip, className: "tip", role: "tooltip" }, help)),
      field);
  };
  const profile = el("select", {}, el("option", { value: "" }, "The server's choice"));
  const system = el("textarea", { rows: 4 });
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
    add("system_prompt", "System prompt", system, SYSTEM),
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
    for (const [name] of NUMBERS) fields.get(name).placeholder = chosen ? String(chosen[name] ?? "all that fits") : "";
    system.placeholder = !chosen ? "" : chosen.prompted_by === "template" ? "None: the profile's own template" : chosen.system_prompt || "None";
    body.querySelector("#help-system_prompt").textContent = SYSTEM_HELP[chosen?.prompted_by ?? ""];
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
