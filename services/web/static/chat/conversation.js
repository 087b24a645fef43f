// One conversation: its messages as the server has them, and the answer under way below them.

import { Refused, call } from "./api.js";
import { announce, byId, el, toast } from "./dom.js";
import { answerArticle, figuresOf, forgottenMark, humanArticle, systemNote, welcome } from "./messages.js";
import { runOf } from "./runs.js";
import { Scroller } from "./scroller.js";
import { settingsTurn } from "./settings.js";
import * as store from "./store.js";
import { Tail } from "./tail.js";

const AREA = byId("messages");
// How many messages of a long conversation are shown at once; the earlier ones follow, as many at a time.
const SHOWN = 50;
// Answers of a conversation whose figures are kept.
const MOST_FIGURES = 300;

export class Conversation {
  /**
   * `ask(prompt, keep)` is called for a prompt that is put anew, `goOn(prompt, keep, begun)` for an answer that is continued,
   * `retry(run)`, `edit(run)` and `forget(run)` for one that failed, `loaded(found, turn)` with what the server has of a session;
   * `drawn(figures)` with those of the last answer that is shown; `beginnings` and `hint` stand in an empty one.
   */
  constructor({ ask, goOn, retry, edit, forget, loaded, drawn, renamed, beginnings, hint }) {
    this.beginnings = beginnings;
    this.drawn = drawn;
    this.failed = { retry, edit, forget };
    this.loaded = loaded;
    this.handlers = {
      ask,
      again: (n) => {
        const at = this.messages.findLastIndex((each, m) => m < n && each.type === "human");
        if (at >= 0) ask(this.messages[at].content, at);
      },
      goOn: () => {
        const at = this.messages.length - 2;
        goOn(this.messages[at].content, at, this.messages[at + 1].content);
      },
      open: (n, number) => this.#change("POST", "branch", { at: n, number }),
      change: (n, content) => this.#change("PATCH", `messages/${n}`, { content }),
      remove: (n) => this.#change("DELETE", `messages/${n}`),
    };
    this.hint = hint;
    this.renamed = renamed;
    this.scroller = new Scroller(byId("scroll"), byId("to-end"));
    this.session = null;
    this.loading = Promise.resolve();
    this.#forget();
  }

  /** Show a session; null is a new chat. */
  async open(session) {
    this.session = session;
    this.#forget();
    this.#draw();
    this.scroller.toEnd();
    if (session !== null) await this.reload();
  }

  /** The new chat has got its number, or has lost it again. */
  adopt(session) {
    this.session = session;
  }

  /** Read it from the server; returns whether it is shown: what was begun before and comes later does not count. */
  reload() {
    const turn = (this.turn += 1);
    this.loading = this.#read(turn);
    return this.loading;
  }

  /** Whether the server has the messages that are shown; where not, show those. */
  async isCurrent() {
    const before = JSON.stringify(this.messages);
    return (await this.reload()) && before === JSON.stringify(this.messages);
  }

  /** Show what is known, without asking the server. */
  redraw() {
    this.#draw();
  }

  /** The answer under way has changed; at its end it is one of the messages. */
  async update(run) {
    // It may be another conversation's: then they are found when that is read.
    if (run.state === "done" && !run.isNothing) store.keep("late", run.session, { result: run.summary.result, figures: figuresOf(run.summary) });
    if (run.session !== this.session || (runOf(run.session) ?? run) !== run) return;
    if (run.state !== "done") {
      this.#showTail(run);
      return;
    }
    announce(run.isNothing ? "Stopped" : "The answer is complete");
    this.tail?.show(run);
    await this.reload().catch((error) => toast(error.message, { isError: true }));
  }

  /** All of it as Markdown. */
  asMarkdown(name) {
    const said = { human: "You", ai: "Answer", system: "System prompt" };
    return [`# ${name}`, ...this.messages.map(({ type, content }) => `**${said[type]}**\n\n${content}`)].join("\n\n");
  }

  #forget() {
    this.turn = (this.turn ?? 0) + 1;
    this.messages = [];
    this.window = 0;
    this.articles = [];
    this.first = 0;
    clearTimeout(this.timer);
    this.tail?.remove();
    this.tail = null;
    AREA.replaceChildren();
  }

  async #read(turn) {
    const session = this.session;
    const settings = settingsTurn(session);
    let found = { name: "", messages: [], window: 0 };
    let isMissing = false;
    try {
      found = await call("GET", `/answer/${session}`);
    } catch (error) {
      if (!(error instanceof Refused && error.status === 404)) throw error;
      isMissing = !runOf(session) && !store.read("draft", session, "");
    }
    if (turn !== this.turn || session !== this.session) return false;
    this.#take(found, settings);
    this.renamed(isMissing ? "Not found" : found.name);
    if (isMissing) AREA.replaceChildren(el("p", { className: "notice" }, "There is no such conversation. ", el("a", { href: "#/" }, "Begin a new one")));
    return true;
  }

  /** Take over what the server has of the session, and show it. */
  #take(found, settings = settingsTurn(this.session)) {
    this.messages = found.messages;
    this.window = found.window;
    this.#keepFigures();
    this.loaded(found, settings);
    this.#draw();
  }

  /** Have the server change what is said, and show what came of it; returns whether it did. */
  async #change(method, path, body) {
    const { session } = this;
    // A second press would be about another message, once the first is done.
    if (this.isChanging) return false;
    this.isChanging = true;
    try {
      if (!(await this.isCurrent())) throw new Error("This conversation has gone on elsewhere. Look before you change it.");
      const found = await call(method, `/answer/${session}/${path}`, body);
      if (session === this.session) {
        // What was asked for before is older.
        this.turn += 1;
        this.#take(found);
      }
      return true;
    } catch (error) {
      toast(error.message, { isError: true });
      return false;
    } finally {
      this.isChanging = false;
    }
  }

  /** How the last answer came about is kept by its words: it may have several versions, and get another place. */
  #keepFigures() {
    const late = store.read("late", this.session, null);
    const at = late ? this.messages.findLastIndex(({ type, content }) => type === "ai" && content === late.result) : -1;
    if (at < 0) return;
    const figures = Object.entries(store.read("figures", this.session, {})).slice(-MOST_FIGURES);
    store.keep("figures", this.session, Object.fromEntries([...figures, [this.#figuresKey(at), late.figures]]));
    store.keep("late", this.session, null);
  }

  /** The name of an answer's figures: of the words of it and its prompt. */
  #figuresKey(at) {
    return digest(`${this.messages[at - 1]?.content ?? ""}\n${this.messages[at].content}`);
  }

  /** The figures of the messages, by their places. */
  #figures() {
    const kept = store.read("figures", this.session, {});
    return this.messages.map(({ type }, n) => (type === "ai" ? kept[this.#figuresKey(n)] : undefined));
  }

  /** Bring what is shown in line with the messages: what has not changed stays, with its selection and focus. */
  #draw() {
    const figures = this.#figures();
    const wanted = this.messages.map((message, n) => ({ message, figures: figures[n], text: JSON.stringify([message, figures[n]]) }));
    if (!this.articles.length) this.first = Math.max(0, wanted.length - SHOWN);
    this.first = Math.min(this.first, wanted.length);
    const shown = wanted.slice(this.first);
    const same = shown.findIndex(({ text }, n) => text !== this.articles[n]?.text);
    const from = same < 0 ? shown.length : same;
    for (const { node } of this.articles.splice(from)) node.remove();
    AREA.querySelectorAll(".notice, .welcome, .forgotten").forEach((node) => node.remove());
    if (this.tail && !runOf(this.session)) {
      this.tail.remove();
      this.tail = null;
    }
    for (const [n, { message, figures: own, text }] of shown.entries()) {
      if (n < from) continue;
      const node = this.#article(message, this.first + n, own);
      this.articles.push({ text, node });
      AREA.insertBefore(node, this.tail?.element ?? null);
    }
    clearTimeout(this.timer);
    if (this.first) this.timer = setTimeout(() => this.#drawEarlier(wanted));
    const run = this.session === null ? null : runOf(this.session);
    if (run) this.#showTail(run);
    else if (!wanted.length) AREA.append(welcome(this.beginnings, this.hint));
    this.#mark(run);
    this.#markForgotten(figures);
    this.drawn(figures[this.messages.length - 1]);
    byId("scroll").setAttribute("aria-busy", String(Boolean(run && !run.isOver)));
  }

  /** Put the messages before the first that is shown above it, a few at a time. */
  #drawEarlier(wanted) {
    const until = this.first;
    this.first = Math.max(0, until - SHOWN);
    const made = wanted.slice(this.first, until).map(({ message, figures, text }, n) => ({ text, node: this.#article(message, this.first + n, figures) }));
    this.articles.unshift(...made);
    AREA.prepend(...made.map(({ node }) => node));
    this.scroller.grown();
    if (this.first) this.timer = setTimeout(() => this.#drawEarlier(wanted));
  }

  /** Only the last prompt can be put anew, and what is being answered anew is out of sight. */
  #mark(run) {
    const last = this.messages.findLastIndex((message) => message.type === "human");
    this.articles.forEach(({ node }, n) => {
      node.classList.toggle("last", last >= 0 && this.first + n >= last);
      node.classList.toggle("replaced", Boolean(run) && run.keep !== null && this.first + n >= run.keep);
    });
  }

  /** Mark in the conversation where the model's reading begins. */
  #markForgotten(figures) {
    const known = figures[this.messages.length - 1]?.messages_left_out ?? 2 * this.window;
    if (!known) return;
    let said = 0;
    const at = this.messages.findIndex(({ type }) => type !== "system" && (said += 1) > known);
    const article = this.articles[at - this.first];
    if (at > 0 && article) AREA.insertBefore(forgottenMark(), article.node);
  }

  #article(message, n, figures) {
    if (message.type === "system") return systemNote(message.content);
    const kept = keptEdit(this.session, n);
    return message.type === "human" ? humanArticle(message, n, this.handlers, kept) : answerArticle(message, n, figures, this.handlers, kept);
  }

  #showTail(run) {
    if (this.tail?.run !== run) {
      this.tail?.remove();
      AREA.querySelectorAll(".notice, .welcome").forEach((node) => node.remove());
      this.tail = new Tail(run, this.failed);
      AREA.append(this.tail.element);
      this.#mark(run);
    }
    byId("scroll").setAttribute("aria-busy", String(!run.isOver));
    this.tail.update();
  }
}

/** What the session's message `n` is being changed to. */
function keptEdit(session, n) {
  return {
    read: () => {
      const edit = store.read("edit", session, null);
      return edit?.n === n ? edit.text : null;
    },
    write: (text) => store.keep("edit", session, text === null ? null : { n, text }),
  };
}

/** A short name for a text (FNV-1a, 32 bits, and its length), with a letter first, so that names keep their order. */
function digest(text) {
  let hash = 0x811c9dc5;
  for (let n = 0; n < text.length; n += 1) hash = Math.imul(hash ^ text.charCodeAt(n), 0x01000193);
  return `f${(hash >>> 0).toString(36)}.${text.length}`;
}
