// What the browser keeps: the key, and for each key's conversations the settings, drafts and figures. Nothing else leaves here.

const PREFIX = "hearth.";
let owner = "";

/** Where a browser lets the page keep nothing, or nothing more, it is kept until the page is left. */
const memory = new Map();
const storage = {
  get(name) {
    try {
      return memory.get(name) ?? localStorage.getItem(name);
    } catch {
      return memory.get(name) ?? null;
    }
  },
  set(name, value) {
    memory.delete(name);
    try {
      localStorage.setItem(name, value);
    } catch {
      memory.set(name, value);
    }
  },
  remove(name) {
    memory.delete(name);
    try {
      localStorage.removeItem(name);
    } catch {
      // Then it is not there.
    }
  },
  names() {
    try {
      return [...new Set([...Object.keys(localStorage), ...memory.keys()])];
    } catch {
      return [...memory.keys()];
    }
  },
};

/** Keep what follows for this key's id. */
export function useOwner(id) {
  owner = id;
}

export const readKey = () => storage.get(`${PREFIX}key`) ?? "";
export const keepKey = (key) => storage.set(`${PREFIX}key`, key);

export const readTheme = () => storage.get(`${PREFIX}theme`) ?? "";
export const keepTheme = (theme) => storage.set(`${PREFIX}theme`, theme);

/** Forget the key, and everything that belongs to any. */
export function forgetAll() {
  for (const name of storage.names()) if (name.startsWith(PREFIX)) storage.remove(name);
}

/** `listener()` is called when another page of this browser has forgotten the key. */
export function onForgotten(listener) {
  addEventListener("storage", (event) => event.key === `${PREFIX}key` && !event.newValue && listener());
}

/** What is kept of a kind ("settings", "sent", "draft", "edit", "figures", "late", "pending", "folded") under a name, mostly a session's; else `none`. */
export function read(kind, name, none) {
  try {
    return JSON.parse(storage.get(place(kind, name))) ?? none;
  } catch {
    return none;
  }
}

/** Keep it; an empty value is forgotten. */
export function keep(kind, name, value) {
  const isEmpty = value === null || value === "" || (typeof value === "object" && !Object.keys(value).length);
  if (isEmpty) storage.remove(place(kind, name));
  else storage.set(place(kind, name), JSON.stringify(value));
}

/** Put a prompt that was not answered before what is being written in its conversation. */
export function returnPrompt(session, prompt) {
  const draft = read("draft", session, "");
  keep("draft", session, draft.startsWith(prompt) ? draft : [prompt, draft].filter(Boolean).join("\n\n"));
}

/** A chat without a number has got one, or has lost it again: what was kept for it goes along. */
export function move(from, to) {
  const settings = read("settings", from, null);
  if (settings && !read("settings", to, null)) keep("settings", to, settings);
  const draft = read("draft", from, "");
  if (draft) returnPrompt(to, draft);
  forget(from);
}

/** Every name under which something of a kind is kept. */
export function namesOf(kind) {
  const begin = place(kind, "");
  return storage.names().filter((each) => each.startsWith(begin)).map((each) => each.slice(begin.length));
}

/** Forget what is kept for a session. */
export function forget(session) {
  for (const kind of ["settings", "sent", "draft", "edit", "figures", "late"]) keep(kind, session, null);
}

const place = (kind, name) => `${PREFIX}${kind}.${owner}.${name}`;
