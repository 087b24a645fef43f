// Where prompts are written, and what becomes of them: asked, stopped, asked again, or given back.

import { Attachments } from "./attachments.js";
import { byId, isSend, toast } from "./dom.js";
import { Drafts } from "./drafts.js";
import * as runs from "./runs.js";
import { fieldsOf, keepSettings, settingsOf } from "./settings.js";
import * as store from "./store.js";

export class Composer {
  /** `place(session, name)` puts a conversation that has just begun, or has not after all (null), into the address and the list. */
  constructor({ conversation, sidebar, place, onchange }) {
    Object.assign(this, { conversation, sidebar, place, onchange });
    this.field = byId("prompt");
    this.drafts = new Drafts();
    this.number = null;
    this.attachments = new Attachments({ session: () => conversation.session, onchange: () => (this.#draft(), onchange()) });
    runs.onChange((run) => this.#changed(run));
    byId("composer").addEventListener("submit", (event) => this.#submit(event));
    byId("stop").addEventListener("click", () => this.stop());
    this.field.addEventListener("input", () => {
      this.#keepDraft();
      this.#fit();
      this.#draft();
    });
    this.field.addEventListener("keydown", (event) => {
      if (!isSend(event)) return;
      event.preventDefault();
      byId("composer").requestSubmit();
    });
  }

  /** The answer under way in the open conversation, or the one that failed; null where there is none. */
  get run() {
    return runs.runOf(this.conversation.session) ?? null;
  }

  get isBusy() {
    return Boolean(this.run && !this.run.isOver);
  }

  /** Put a prompt in the place of what is behind the first `keep` messages; returns whether it was. */
  async askAnew(prompt, keep) {
    const may = await this.#mayAsk(keep);
    if (may) this.#begin(prompt, keep);
    return may;
  }

  /** Go on with the open conversation's last answer, `begun`, whose prompt stands behind the first `keep` messages. */
  async goOn(prompt, keep, begun) {
    if (!(await this.#mayAsk(keep))) return;
    const { session } = this.conversation;
    this.#changed(runs.goOn(session, { prompt, keep, begun, settings: fieldsOf(session) }));
    this.conversation.scroller.toEnd();
  }

  /** Give up what failed, and its prompt. */
  forget(run) {
    runs.dismiss(run);
    if (run.isFirst && !this.conversation.messages.length) {
      this.place(null, "New chat");
      this.conversation.open(null);
      this.showDraft();
    } else {
      this.conversation.redraw();
    }
    this.sidebar.draw();
    this.onchange();
    this.field.focus();
  }

  /** Ask once more for what failed. */
  async retry(run) {
    if (await this.#mayAsk(run.keep)) this.#changed(runs.askAgain(run, fieldsOf(run.session)));
  }

  /** What was asked and left unanswered, in a page that was closed say, comes back to be written. */
  takeBackLeft() {
    for (const asked of runs.takeLeft()) this.#giveBack(asked);
  }

  /** Write on at the prompt of what failed. */
  edit(run) {
    runs.dismiss(run);
    this.#giveBack(run);
    this.conversation.redraw();
    this.onchange();
    this.field.focus();
  }

  /** End the answer under way; false where there is none. */
  stop() {
    if (!this.isBusy) return false;
    if (!this.run.stopping) this.run.stop();
    return true;
  }

  /** Put words into the field, as if they had been written there. */
  write(words) {
    this.field.value = words;
    this.#keepDraft();
    this.#fit();
    this.#draft();
    this.field.focus();
  }

  /** Show what was being written in the open conversation. */
  showDraft() {
    this.field.value = store.read("draft", this.conversation.session ?? "new", "");
    this.#fit();
    this.#draft();
    this.attachments.draw();
  }

  async #submit(event) {
    event.preventDefault();
    const prompt = this.field.value;
    if (!prompt.trim() || this.isBusy) return;
    await this.attachments.ready();
    if (!(await this.#mayAsk()) || this.field.value !== prompt) return;
    this.field.value = "";
    this.#keepDraft();
    this.#fit();
    this.#begin(prompt);
  }

  /** Whether a prompt can be put now; with `keep` only if what it would replace is what is shown. Says why not. */
  async #mayAsk(keep = null) {
    const { session } = this.conversation;
    let problem = null;
    if (this.isBusy) problem = "This conversation is being answered just now.";
    else if (runs.isFull()) problem = `${runs.MOST} answers are under way in this browser. Wait for one, or stop one.`;
    else if (session !== null) problem = await this.#outdated(keep);
    if (problem) toast(problem, { isError: true });
    return !problem && this.conversation.session === session && !this.isBusy;
  }

  /** Why the open conversation is not to be gone on with as it is shown; null where it is. */
  async #outdated(keep) {
    try {
      if (keep !== null ? await this.conversation.isCurrent() : await this.#isLoaded()) return null;
      return "This conversation has gone on elsewhere. Look before you ask anew.";
    } catch (error) {
      return error.message;
    }
  }

  async #isLoaded() {
    await this.conversation.loading.catch(() => this.conversation.reload());
    return true;
  }

  #begin(prompt, keep = null) {
    const failed = this.run;
    let { session } = this.conversation;
    const isFirst = session === null;
    if (isFirst) {
      session = this.#nextNumber();
      this.number = null;
      // What every new chat begins with stays this one's, whatever that is later.
      keepSettings(null, settingsOf(null));
      store.move("new", session);
      this.attachments.numbered(session);
      this.conversation.adopt(session);
      this.place(session, prompt.trim().split("\n")[0].slice(0, 60));
    }
    if (failed) runs.dismiss(failed);
    this.drafts.asked();
    const run = runs.ask(session, { prompt, keep, isFirst, settings: fieldsOf(session) });
    if (failed) {
      store.returnPrompt(session, failed.prompt);
      this.showDraft();
    }
    this.#changed(run);
    this.conversation.scroller.toEnd();
  }

  /** A prompt that was not answered comes back to be written, unless it still stands there. */
  #giveBack({ session, prompt, keep, isFirst }) {
    const { messages } = this.conversation;
    const isOpen = session === this.conversation.session;
    if (isOpen && keep !== null && messages[keep]?.content === prompt) return;
    store.returnPrompt(session, prompt);
    if (isFirst && !(isOpen && messages.length) && !this.sidebar.has(session) && !runs.runOf(session)) {
      // It never became a conversation.
      store.move(session, "new");
      if (isOpen) {
        this.place(null, "New chat");
        this.conversation.open(null);
      }
    }
    if (isOpen || this.conversation.session === null) this.showDraft();
  }

  #changed(run) {
    if (run.isNothing) this.#giveBack(run);
    this.conversation.update(run);
    this.onchange();
    if (run.isOver) this.sidebar.reload().catch(() => {});
    else if (!this.sidebar.has(run.session)) this.sidebar.draw();
  }

  /** The number that the new chat will have: the time, so that two pages do not choose the same. */
  #nextNumber() {
    this.number ??= String(Date.now());
    return this.number;
  }

  /** Have what is being written read ahead. */
  #draft() {
    const { session } = this.conversation;
    if (!this.isBusy) this.drafts.changed(session ?? this.#nextNumber(), this.field.value, fieldsOf(session));
  }

  #keepDraft() {
    store.keep("draft", this.conversation.session ?? "new", this.field.value);
  }

  #fit() {
    this.field.style.height = "auto";
    this.field.style.height = `${Math.min(this.field.scrollHeight, innerHeight * 0.4)}px`;
  }
}
