// The list of conversations: in groups, found by words, renamed, pinned, moved, and deleted with a moment to take it back.

import { call } from "./api.js";
import { ago, byId, el, icon, toast } from "./dom.js";
import { allowDragging } from "./dragging.js";
import { grouped } from "./grouping.js";
import { later } from "./later.js";
import { groupSection, renameForm, sessionItem } from "./list_items.js";
import { openMenu } from "./menu.js";
import { Roving } from "./roving.js";
import { all, dismiss, runOf } from "./runs.js";
import * as store from "./store.js";

const UNDO_SECONDS = 7;
const SHOWN = 200;

export class Sidebar {
  /** `onleave(session)` is called when a session is deleted, `onback(session)` when it is taken back. */
  constructor({ onleave, onback }) {
    this.onleave = onleave;
    this.onback = onback;
    this.list = byId("sessions");
    this.search = byId("search");
    this.roving = new Roving(this.list, ".stop");
    this.current = null;
    this.isRead = false;
    this.words = "";
    this.sessions = [];
    this.leaving = new Map();
    this.most = SHOWN;
    let timer;
    this.search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.reload().catch((error) => toast(error.message, { isError: true })), 150);
    });
    const transfer = byId("transfer");
    transfer.append(icon("more"));
    transfer.addEventListener("click", () => openMenu(transfer, "Export or import", [
      { words: "Export all", onchoose: () => later("./transfer.js", ({ exportAll }) => exportAll()) },
      { words: "Import…", onchoose: () => later("./transfer.js", ({ importFrom }) => importFrom(() => this.reload())) },
    ]));
    allowDragging(this.list, { drop: (session, group) => this.#drop(session, group), end: () => this.draw() });
    // What is on its way out does not stay because the page does not.
    addEventListener("pagehide", () => [...this.leaving.keys()].forEach((session) => this.#delete(session, { keepalive: true })));
  }

  /** Read the list anew. */
  async reload() {
    const words = this.search.value.trim();
    const found = await call("GET", `/sessions?q=${encodeURIComponent(words)}`);
    // A later search has overtaken this one.
    if (words !== this.search.value.trim()) return;
    this.sessions = found.sessions;
    if (words !== this.words) this.list.scrollTop = 0;
    this.words = words;
    this.isRead = true;
    this.draw();
  }

  /** Whether the session is one of those that the server has. */
  has(session) {
    return this.sessions.some(({ session_id }) => session_id === session);
  }

  /** Mark the session that is open. */
  mark(session) {
    this.current = session;
    this.draw();
  }

  /** A session that was to be deleted is opened again: it stays. */
  takeBack(session) {
    const hide = this.leaving.get(session);
    if (!hide) return;
    hide();
    this.leaving.delete(session);
    this.draw();
  }

  draw() {
    // What is being renamed or dragged stays where it is.
    if (this.list.querySelector("form, .dragged")) return;
    const listed = [...this.#begun(), ...this.sessions].filter(({ session_id }) => !this.leaving.has(session_id));
    const groups = this.#groups(listed);
    // An answer under way comes here with each word: what is clicked on meanwhile is to stay.
    const drawn = JSON.stringify([this.current, this.isRead, this.most, this.words, groups.map((each) => [each, each.sessions.map(({ updated }) => ago(updated))])]);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    const focused = placeOf(document.activeElement, this.list);
    this.list.replaceChildren(...this.#sections(groups));
    this.roving.stopAt(this.list.querySelector("[aria-current]"));
    this.#focus(focused);
    const none = byId("no-sessions");
    none.hidden = listed.length > 0 || !this.isRead;
    this.list.hidden = listed.length === 0;
    none.textContent = this.words ? "No conversation has these words." : "No conversations yet. Each one that you begin will be listed here.";
  }

  /** What is shown: what was found as it is, else in groups; of a folded group only the number counts. */
  #groups(listed) {
    if (this.words) return [{ kind: "found", title: "Found", sessions: listed, isFolded: false }];
    const folded = store.read("folded", "folders", []);
    return grouped(listed).map((group) => ({ ...group, isFolded: group.kind === "folder" && folded.includes(group.title) }));
  }

  #sections(groups) {
    let left = this.most;
    const sections = [];
    for (const group of groups) {
      const shown = group.isFolded ? [] : group.sessions.slice(0, left);
      if (!shown.length && !group.isFolded) continue;
      left -= shown.length;
      const fold = (isFolded) => this.#fold(group.title, isFolded);
      sections.push(groupSection(group, shown.map((session) => this.#item(session)), { isFolded: group.isFolded, fold }));
    }
    const total = groups.reduce((sum, { isFolded, sessions }) => sum + (isFolded ? 0 : sessions.length), 0);
    if (total > this.most) {
      sections.push(el("button", { type: "button", className: "wide stop", onclick: () => this.#showMore() }, `Show more of ${total}`));
    }
    return sections;
  }

  #showMore() {
    const before = this.list.querySelectorAll("li").length;
    this.most += SHOWN;
    this.draw();
    this.list.querySelectorAll("li")[before].querySelector("a").focus();
  }

  /** What is being answered for the first time, so that the server lists it only afterwards. */
  #begun() {
    if (this.search.value.trim()) return [];
    const known = new Set(this.sessions.map(({ session_id }) => session_id));
    return all().filter((run) => !known.has(run.session)).map((run) => ({ session_id: run.session, name: run.prompt.trim().split("\n")[0], isBegun: true, isFailed: run.isOver }));
  }

  #item(session) {
    const options = (button) => this.#openMenu(button, session);
    return sessionItem(session, { isOpen: session.session_id === this.current, words: this.words, openMenu: options });
  }

  #openMenu(button, session) {
    const { session_id: id, name, pinned } = session;
    openMenu(button, `Options for ${name}`, [
      { words: "Rename", onchoose: () => this.#rename(session) },
      { words: pinned ? "Unpin" : "Pin", onchoose: () => this.#change(id, { pinned: !pinned }) },
      { words: "Move to folder…", onchoose: () => this.#move(session) },
      { words: "Delete", onchoose: () => this.#remove(session), isDanger: true },
    ], () => this.#focus({ session: id }));
  }

  #move(session) {
    const move = (folder) => this.#change(session.session_id, { folder });
    later("./folders.js", ({ askForFolder }) => askForFolder(session, move));
  }

  #drop(id, { kind, title }) {
    const session = this.sessions.find(({ session_id }) => session_id === id);
    if (kind === "new") this.#move(session);
    else if (kind === "pinned") this.#change(id, { pinned: true });
    else this.#change(id, { pinned: false, folder: kind === "folder" ? title : "" });
  }

  /** Have the server change something about a session; the list shows it, with the focus on the session. */
  async #change(id, changes) {
    if (!(await this.#patch(id, changes))) return;
    if (changes.folder) this.#fold(changes.folder, false);
    await this.#show(id);
  }

  /** Returns whether the server has taken the changes; says why not. */
  async #patch(id, changes) {
    try {
      await call("PATCH", `/answer/${id}`, changes);
      return true;
    } catch (error) {
      toast(error.message, { isError: true });
      return false;
    }
  }

  /** Read the list anew, and give the focus to a session in it. */
  async #show(id) {
    await this.reload().catch((error) => toast(error.message, { isError: true }));
    this.#focus({ session: id });
  }

  #fold(folder, isFolded) {
    const folded = new Set(store.read("folded", "folders", []));
    if (isFolded) folded.add(folder);
    else folded.delete(folder);
    store.keep("folded", "folders", [...folded]);
    this.draw();
  }

  #rename({ session_id: id, name }) {
    const close = () => {
      form.remove();
      this.drawn = null;
    };
    const done = () => {
      close();
      this.draw();
      this.#focus({ session: id });
    };
    const save = async (wanted) => {
      // The form stays where the server does not take the name.
      if (!(await this.#patch(id, { name: wanted }))) return;
      close();
      if (id === this.current) byId("title").textContent = wanted;
      await this.#show(id);
    };
    const { form, field } = renameForm(name, { save, done });
    this.#itemOf(id).replaceChildren(form);
    field.select();
  }

  #remove(session) {
    const { session_id: id, name } = session;
    runOf(id)?.stop();
    const wasOpen = id === this.current;
    const undo = () => {
      this.takeBack(id);
      if (wasOpen) this.onback(id);
    };
    const next = this.#neighbour(id);
    const hide = toast(`Deleted “${name}”`, { action: "Undo", onaction: undo, onexpire: () => this.#delete(id), seconds: UNDO_SECONDS });
    this.leaving.set(id, hide);
    this.draw();
    if (next.session) this.#focus(next);
    else byId("new-chat").focus();
    if (wasOpen) this.onleave(id);
  }

  async #delete(id, options) {
    try {
      await call("DELETE", `/answer/${id}`, undefined, options);
      store.forget(id);
      if (runOf(id)) dismiss(runOf(id));
    } catch (error) {
      if (error.status !== 404) toast(`It could not be deleted: ${error.message}`, { isError: true });
    }
    this.leaving.delete(id);
    await this.reload().catch(() => {});
  }

  #itemOf(id) {
    return this.list.querySelector(`li[data-session="${id}"]`);
  }

  /** The place of the conversation after this one, or of the one before where this is the last. */
  #neighbour(id) {
    const items = [...this.list.querySelectorAll("li[data-session]")];
    const at = items.findIndex((item) => item.dataset.session === id);
    return { session: (items[at + 1] ?? items[at - 1])?.dataset.session };
  }

  /** Give the focus to a place as `placeOf` tells it, where there still is one. */
  #focus({ session, folder, isOptions } = {}) {
    const name = [...this.list.querySelectorAll(".group-name")].find((each) => folder && each.dataset.folder === folder);
    const item = session ? this.#itemOf(session) : null;
    (name ?? item?.querySelector(isOptions ? ".options" : "a"))?.focus();
  }
}

/** Where an element of the list is, so that the focus finds it in a list that was drawn anew. */
function placeOf(element, list) {
  if (!list.contains(element)) return {};
  return { session: element.closest("li")?.dataset.session, folder: element.dataset.folder, isOptions: element.matches(".options") };
}
