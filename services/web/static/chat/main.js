// The page: who is asking, which conversation is open, and the keyboard.

import { Refused, call, useKey } from "./api.js";
import { Beginnings, assistantFields, readDefaults } from "./assistants.js";
import { Composer } from "./composer.js";
import { ContextGauge } from "./context.js";
import { Conversation } from "./conversation.js";
import { announce, byId, closeToast, download, el, icon, toast } from "./dom.js";
import { later } from "./later.js";
import { Panels } from "./panels.js";
import { Picker } from "./picker.js";
import * as runs from "./runs.js";
import { openSettings, settingsOf, takeSettings } from "./settings.js";
import { onShortcuts, showShortcuts } from "./shortcuts.js";
import { Sidebar } from "./sidebar.js";
import * as store from "./store.js";
import { applyTheme } from "./theme.js";
import { TinyHint } from "./tiny.js";

applyTheme();
const narrow = matchMedia("(max-width: 760px)");
let me = null;

const gauge = new ContextGauge();
const beginnings = new Beginnings({ onchange: () => (changedSettings(), panels.refresh(), composer.attachments.draw()), write: (words) => composer.write(words) });
const hint = new TinyHint(() => panels.show("models"));
const conversation = new Conversation({
  ask: (prompt, keep) => composer.askAnew(prompt, keep),
  retry: (run) => composer.retry(run),
  goOn: (prompt, keep, begun) => composer.goOn(prompt, keep, begun),
  edit: (run) => composer.edit(run),
  forget: (run) => composer.forget(run),
  loaded: (found, turn) => found.session_id && takeSettings(found, turn) && (composer.attachments.draw(), changedSettings(), panels.refresh()),
  drawn: (figures) => gauge.show(figures),
  renamed: (name) => entitle(name || "Conversation"),
  beginnings: beginnings.element,
  hint: hint.element,
});
const sidebar = new Sidebar({
  onleave: () => go(null),
  onback: (session) => go(session),
});
const composer = new Composer({
  conversation,
  sidebar,
  place: (session, name) => {
    history.replaceState(null, "", session === null ? "#/" : `#/${session}`);
    entitle(name);
    sidebar.mark(session);
  },
  onchange: () => showState(),
});
const picker = new Picker(byId("picker"), { session: () => conversation.session, onchange: () => (changedSettings(), panels.refresh()) });
const panels = new Panels({
  settings: ["Settings", () => (body) => openSettings(body, { session: () => conversation.session, onchange: changedSettings, save, assistants: assistantFields, onassistants: () => beginnings.refresh() })],
  // These come when they are first wanted.
  models: ["Models", async () => {
    const { openModels } = await import("./models.js");
    return (body) => openModels(body, { may, onswitch: showModel });
  }],
  keys: ["Keys", async () => (await import("./keys.js")).openKeys],
  status: ["Status", async () => {
    const { openStatus } = await import("./status.js");
    return (body) => openStatus(body, { isMaster: may("keys") });
  }],
}, () => showSidebar(false));

// Who is asking.

function login(message = "", key = "") {
  useKey("");
  byId("app").hidden = true;
  byId("login").hidden = false;
  byId("login-error").textContent = message;
  byId("key").value = key;
  byId("key").focus();
}

async function enter(key) {
  useKey(key);
  await call("GET", "/auth");
  const wasHere = me !== null;
  me = await call("GET", "/auth/me");
  store.keepKey(key);
  // What was under way for somebody else is not for whoever comes next.
  if (wasHere) return location.reload();
  store.useOwner(me.id);
  useKey(key, () => login("This key is no longer valid. Whoever runs the server can make a new one."));
  byId("login").hidden = true;
  byId("app").hidden = false;
  byId("open-keys").hidden = !may("keys");
  byId("leave").title = `Forget the key${me.name ? ` of ${me.name}` : ""} in this browser`;
  await readDefaults();
  await route();
  // Only now it is known which conversations there are.
  composer.takeBackLeft();
  if (document.activeElement === document.body) composer.field.focus();
}

const may = (scope) => me.scopes.includes(scope);

/** Why somebody could not come in, in plain words. */
function refusal(error) {
  if (error instanceof Refused && error.status === 401) return "This key is not valid. Look for missing or extra letters.";
  return error.message;
}

byId("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = byId("key").value.trim();
  byId("login-error").textContent = "";
  try {
    // No header can hold these.
    if (/[\0-\x1f\x7f]/.test(key)) throw new Refused(401, null);
    await enter(key);
    byId("key").value = "";
  } catch (error) {
    login(refusal(error), error.status === 401 ? "" : key);
  }
});

byId("leave").addEventListener("click", () => {
  store.forgetAll();
  history.replaceState(null, "", "#/");
  location.reload();
});

// Which conversation is open.

/** The session that the address names; null for a new chat. */
const named = () => /^#\/(\d{1,19})$/.exec(location.hash)?.[1] ?? null;

function go(session) {
  const hash = session === null ? "#/" : `#/${session}`;
  if (location.hash === hash) route();
  else location.hash = hash;
}

async function route() {
  const session = named();
  showSidebar(false);
  if (session === null) beginnings.refresh();
  entitle(session === null ? "New chat" : "");
  sidebar.takeBack(session);
  sidebar.mark(session);
  runs.resume(session);
  const opened = conversation.open(session);
  composer.showDraft();
  showState();
  showModel();
  panels.refresh();
  try {
    await Promise.all([opened, sidebar.reload()]);
  } catch (error) {
    if (!(error instanceof Refused && error.status === 401)) toast(error.message, { isError: true });
  }
}

function save() {
  const name = byId("title").textContent;
  download(name, conversation.asMarkdown(name));
}

function entitle(name) {
  byId("title").textContent = name;
  document.title = name && name !== "New chat" ? `${name} · Hearth` : "Hearth";
}

addEventListener("hashchange", () => me && route());
addEventListener("visibilitychange", () => {
  if (document.hidden || !me || byId("app").hidden) return;
  sidebar.reload().catch(() => {});
  // Another page may have gone on with it.
  if (conversation.session !== null && !runs.runOf(conversation.session) && !byId("messages").querySelector("form")) {
    conversation.reload().catch(() => {});
  }
});

function changedSettings() {
  showState();
  showModel();
}

/** Show which model answers, and say so in an empty chat where that is a tiny one. */
function showModel() {
  if (!may("models:read")) return;
  picker.refresh();
  hint.refresh(settingsOf(conversation.session).model, may("models:pull"));
}

let shown = "";

/** What is to be seen of the open conversation's settings, and of whether it is being answered. */
function showState() {
  const { isBusy } = composer;
  const settings = settingsOf(conversation.session);
  // The model has a place of its own.
  const isChanged = Object.keys(settings).some((name) => !["model", "files"].includes(name));
  const now = JSON.stringify([isBusy, isChanged, settings.model]);
  // An answer under way comes here with each word: what is clicked on meanwhile is to stay.
  if (now === shown) return;
  shown = now;
  byId("send").hidden = isBusy;
  byId("stop").hidden = !isBusy;
  byId("messages").classList.toggle("busy", isBusy);
  byId("open-settings").replaceChildren(icon("settings"), el("span", {}, "Settings"));
  byId("open-settings").classList.toggle("changed", isChanged);
  picker.draw();
}

// The list, the panels and the keyboard.

function showSidebar(isShown) {
  byId("app").classList.toggle("with-sidebar", isShown);
  byId("open-sidebar").setAttribute("aria-expanded", String(isShown));
  // On a narrow screen what is out of sight is out of reach, too.
  byId("sidebar").inert = narrow.matches && !isShown;
  if (isShown) byId("close-sidebar").focus();
}

byId("open-sidebar").addEventListener("click", () => showSidebar(true));
byId("close-sidebar").addEventListener("click", () => (showSidebar(false), byId("open-sidebar").focus()));
byId("backdrop").addEventListener("click", () => showSidebar(false));
byId("new-chat").addEventListener("click", () => setTimeout(() => composer.field.focus()));
narrow.addEventListener("change", () => showSidebar(false));

document.addEventListener("keydown", (event) => {
  if (!me || byId("app").hidden || event.defaultPrevented) return;
  if (event.key === "Escape") {
    if (event.target.closest("#panel")) panels.hide();
    else if (event.target.closest("#sidebar input")) composer.field.focus();
    else if (composer.stop()) announce("Stopping");
    else if (closeToast()) announce("Closed");
    else if (byId("app").classList.contains("with-sidebar")) showSidebar(false);
    else panels.hide();
  } else if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.altKey && !event.target.closest("input, textarea, select")) {
    event.preventDefault();
    composer.field.focus();
  }
});

const search = () => later("./quick_search.js", ({ quickSearch }) => quickSearch((session) => (go(session), composer.field.focus())));
onShortcuts({ isReady: () => me && !byId("app").hidden, search, newChat: () => (go(null), composer.field.focus()), help: showShortcuts });
byId("open-shortcuts").addEventListener("click", showShortcuts);
byId("skip").addEventListener("click", (event) => {
  // The part behind the # names the conversation.
  event.preventDefault();
  byId("scroll").focus();
});

byId("close-sidebar").append(icon("close"));
byId("open-sidebar").append(icon("menu"));
byId("close-panel").append(icon("close"));
byId("send").append(icon("send"));
byId("stop").append(icon("stop"));
showSidebar(false);

import("./offline_notice.js").catch(() => {});
// Whoever presses Ctrl+K goes on typing at once.
setTimeout(() => import("./quick_search.js").catch(() => {}), 300);
store.onForgotten(() => location.reload());
const known = store.readKey();
if (!known) login();
else {
  enter(known).catch((error) => {
    if (error instanceof Refused && error.status === 401) login("The key that this browser kept is no longer valid.");
    else login(`${error.message} Continue tries again.`, known);
  });
}
