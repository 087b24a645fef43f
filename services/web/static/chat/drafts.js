// What is being written is read ahead on the server, so that the first word of the answer comes at once.

import { call } from "./api.js";

// About 300 tokens: shorter prompts are read in a moment.
const LONG = 1200;
// Milliseconds without a key before it is sent, between two drafts, and after the server had no time for one.
const QUIET = 900;
const PAUSE = 2500;
const LATER = 30_000;
const FIELDS = ["model", "system_prompt", "memory_k", "max_tokens", "files", "think", "reasoning_effort", "thinking_budget"];

export class Drafts {
  constructor() {
    this.session = null;
    this.sent = "";
    this.next = 0;
  }

  /** The words of a session's next prompt have changed; `fields` are those of its request. */
  changed(session, words, fields) {
    clearTimeout(this.timer);
    if (this.session !== null && (session !== this.session || !words.trim())) this.forget();
    if (words.length < LONG) return;
    this.timer = setTimeout(() => this.#send(session, words, fields), Math.max(QUIET, this.next - Date.now()));
  }

  /** They are asked now: the server drops the draft itself. */
  asked() {
    clearTimeout(this.timer);
    this.session = null;
    this.sent = "";
  }

  /** They are not to be asked. */
  forget() {
    clearTimeout(this.timer);
    const { session } = this;
    this.asked();
    if (session !== null) call("DELETE", `/answer/${session}/draft`).catch(() => {});
  }

  async #send(session, words, fields) {
    if (words === this.sent) return;
    this.session = session;
    this.sent = words;
    this.next = Date.now() + PAUSE;
    const body = Object.fromEntries(FIELDS.filter((name) => fields[name] !== undefined).map((name) => [name, fields[name]]));
    try {
      await call("POST", `/answer/${session}/draft`, { ...body, prompt: words });
    } catch {
      // It is only a help: the prompt itself will say what is wrong.
      this.next = Date.now() + LATER;
    }
  }
}
