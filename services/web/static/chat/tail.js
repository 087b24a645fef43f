// The prompt and the answer that are under way, below what is stored.

import { announce, el } from "./dom.js";
import { MarkdownView } from "./markdown.js";

// A long text is drawn less often: this many milliseconds for each thousand characters, up to the most.
const PACE = 2;
const SLOWEST = 250;

export class Tail {
  /** `handlers.retry(run)`, `handlers.edit(run)` and `handlers.forget(run)` are called where it has failed. */
  constructor(run, handlers) {
    this.run = run;
    this.handlers = handlers;
    this.view = new MarkdownView();
    this.state = el("p", { className: "state" });
    this.failure = el("div", { className: "failure", role: "alert", hidden: true });
    this.answer = el("article", { className: "message ai", "aria-label": "Answer" }, this.view.element, this.state, this.failure);
    this.bar = el("progress", { hidden: true, "aria-label": "How much of the conversation is read" });
    this.state.after(this.bar);
    const human = el("article", { className: "message human", "aria-label": "You" }, el("div", { className: "words", dir: "auto" }, run.prompt));
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
    this.view.show(run.text || run.begun, run.thoughts);
    this.drawn = performance.now();
    const words = stateText(run);
    this.state.hidden = !words;
    this.state.textContent = words;
    // What is read is told by the bar: not each step is to be said.
    const said = run.reading ? words.split(":")[0] : words;
    if (this.said !== said) {
      this.said = said;
      if (said) announce(said);
    }
    this.bar.hidden = !words || !run.reading;
    if (run.reading) Object.assign(this.bar, { max: run.reading.of, value: run.reading.read });
    this.answer.classList.toggle("writing", run.state === "answering");
    if (run.state === "failed" && this.failure.hidden) {
      this.failure.hidden = false;
      const button = (label, onclick, className = "") => el("button", { type: "button", className, onclick }, label);
      this.failure.replaceChildren(el("p", {}, run.error.message),
        button("Try again", () => this.handlers.retry(run), "primary"),
        ...(run.begun ? [] : [button("Edit", () => this.handlers.edit(run))]),
        button(run.begun ? "Leave it" : "Delete", () => this.handlers.forget(run)));
    }
  }
}

function stateText(run) {
  if (run.stopping && !run.isOver) return "Stopping…";
  if (run.state === "reconnecting") return "The connection is lost. Trying again…";
  if (run.state === "answering" && !run.text) return "Thinking…";
  if (run.state !== "waiting") return "";
  if (run.reading && !run.place) return readingText(run.reading);
  return run.place ? `Waiting: number ${run.place} in line` : "Thinking…";
}

/** "Reading: 512 of 2,048 tokens, about 3 s left". */
function readingText({ read, of, seconds_left: left }) {
  const rest = left === null ? "" : `, about ${left < 90 ? `${Math.max(1, Math.round(left))} s` : `${Math.round(left / 60)} min`} left`;
  return `Reading: ${read.toLocaleString("en")} of ${of.toLocaleString("en")} tokens${rest}`;
}
