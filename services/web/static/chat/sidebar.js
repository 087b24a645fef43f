// The list of conversations: newest first, found by words, renamed, and deleted with a moment to take it back.

import { call } from "./api.js";
import { ago, byId, el, iconButton, toast } from "./dom.js";
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
    this.current = null;
    this.sessions = [];
    this.leaving = new Map();
    this.most = SHOWN;
    let timer;
    this.search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.reload().catch((error) => toast(error.message, { isError: true })), 150);
    });
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
    const leaving = this.leaving.get(session);
    if (!leaving) return;
    clearTimeout(leaving.timer);
    leaving.hide();
    this.leaving.delete(session);
    this.draw();
  }

  draw() {
    if (this.list.querySelector("form")) return;
    const listed = [...this.#begun(), ...this.sessions].filter(({ session_id }) => !this.leaving.has(session_id));
    // An answer under way comes here with each word: what is clicked on meanwhile is to stay.
    const drawn = JSON.stringify([this.current, this.most, listed.map((each) => [each, ago(each.updated)])]);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    const items = listed.slice(0, this.most).map((session) => this.#item(session));
    if (listed.length > this.most) {
      const more = () => ((this.most += SHOWN), this.draw());
      items.push(el("li", {}, el("button", { type: "button", className: "wide", onclick: more }, `Show more of ${listed.length}`)));
    }
    this.list.replaceChildren(...items);
    const none = byId("no-sessions");
    none.hidden = listed.length > 0;
    none.textContent = this.search.value.trim() ? "None has these words." : "Your conversations will be listed here.";
  }

  /** What is being answered for the first time, so that the server lists it only afterwards. */
  #begun() {
    if (this.search.value.trim()) return [];
    const known = new Set(this.sessions.map(({ session_id }) => session_id));
    return all().filter((run) => !known.has(run.session)).map((run) => ({ session_id: run.session, name: run.prompt.trim().split("\n")[0], isBegun: true, isFailed: run.isOver }));
  }

  #item(session) {
    const { session_id: id, name, updated, isBegun, isFailed } = session;
    const link = el("a", { href: `#/${id}`, title: name, "aria-current": id === this.current ? "page" : null },
      el("span", { className: "name" }, name || `Conversation ${id}`),
      isBegun ? el("span", { className: "faint" }, isFailed ? "not answered" : "being answered")
        : el("time", { dateTime: updated ?? "", title: updated ? new Date(updated).toLocaleString() : "" }, ago(updated)));
    const item = el("li", {}, link);
    if (isBegun) return item;
    item.append(el("span", { className: "item-actions" },
      iconButton("edit", `Rename ${name}`, () => this.#rename(item, session)),
      iconButton("trash", `Delete ${name}`, () => this.#remove(session))));
    return item;
  }

  #rename(item, { session_id: id, name }) {
    const field = el("input", { value: name, maxLength: 200, "aria-label": "Name of the conversation", required: true });
    const done = () => {
      form.remove();
      this.drawn = null;
      this.draw();
      this.list.querySelector(`a[href="#/${id}"]`)?.focus();
    };
    const save = async (event) => {
      event.preventDefault();
      const wanted = field.value.trim();
      if (!wanted) return field.reportValidity();
      try {
        await call("PATCH", `/answer/${id}`, { name: wanted });
        form.remove();
        this.drawn = null;
        await this.reload();
        if (id === this.current) byId("title").textContent = wanted;
        this.list.querySelector(`a[href="#/${id}"]`)?.focus();
      } catch (error) {
        toast(error.message, { isError: true });
      }
    };
    const form = el("form", { onsubmit: save }, field, el("button", {}, "Save"));
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      done();
    });
    item.replaceChildren(form);
    field.select();
  }

  #remove(session) {
    const { session_id: id, name } = session;
    runOf(id)?.stop();
    const timer = setTimeout(() => this.#delete(id), UNDO_SECONDS * 1000);
    const wasOpen = id === this.current;
    const undo = () => {
      this.takeBack(id);
      if (wasOpen) this.onback(id);
    };
    const hide = toast(`Deleted “${name}”`, { action: "Undo", onaction: undo, seconds: UNDO_SECONDS - 0.5 });
    this.leaving.set(id, { timer, hide });
    this.draw();
    if (wasOpen) this.onleave(id);
  }

  async #delete(id, options) {
    clearTimeout(this.leaving.get(id)?.timer);
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
}
