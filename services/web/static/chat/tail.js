// The prompt and the answer that are under way, below what is stored.

import { announce, el } from "./dom.js";
import { MarkdownView } from "./markdown.js";

// A long text is drawn less often: this many milliseconds for each thousand characters, up to the most.
const PACE = 2;
const SLOWEST = 250;

export class Tail {
  /** `handlers.retry(run)` and `handlers.edit(run)` are called where it has failed. */
  constructor(run, handlers) {
    this.run = run;
    this.handlers = handlers;
    this.view = new MarkdownView();
    this.state = el("p", { className: "state" });
    this.failure = el("div", { className: "failure", role: "alert", hidden: true });
    this.answer = el("article", { className: "message ai", "aria-label": "Answer" }, this.view.element, this.state, this.failure);
    const human = el("article", { className: "message human", "aria-label": "You" }, el("div", { className: "words" }, run.prompt));
    this.element = el("div", { className: "tail" }, human, this.answer);
    this.drawn = 0;
    this.timer = null;
    this.said = "";
  }

  /** Something has changed: draw it soon, once for all that comes until then. */
  update() {
    if (this.timer !== null) return;
    const pause = Math.min(SLOWEST, (PACE * (this.run.text.length + this.run.thoughts.length)) / 1000);
    const wait = Math.max(0, this.drawn + pause - performance.now());
    this.timer = setTimeout(() => {
      this.timer = null;
      this.show();
    }, wait);
  }

  remove() {
    clearTimeout(this.timer);
    this.element.remove();
  }

  show() {
    const { run } = this;
    this.view.show(run.text, run.thoughts);
    this.drawn = performance.now();
    const words = stateText(run);
    this.state.hidden = !words;
    if (this.said !== words) {
      this.said = words;
      this.state.textContent = words;
      if (words) announce(words);
    }
    this.answer.classList.toggle("writing", run.state === "answering");
    if (run.state === "failed" && this.failure.hidden) {
      this.failure.hidden = false;
      this.failure.replaceChildren(el("p", {}, run.error.message),
        el("button", { type: "button", className: "primary", onclick: () => this.handlers.retry(run) }, "Try again"),
        el("button", { type: "button", onclick: () => this.handlers.edit(run) }, "Edit"));
    }
  }
}

function stateText(run) {
  if (run.stopping && !run.isOver) return "Stopping…";
  if (run.state === "reconnecting") return "The connection is lost. Trying again…";
  if (run.state === "answering" && !run.text) return "Thinking…";
  if (run.state !== "waiting") return "";
  return run.place ? `Waiting: number ${run.place} in line` : "Thinking…";
}
