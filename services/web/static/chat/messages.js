// What the messages of a conversation look like, and what can be done with each.

import { actionsOf, deleteButton, idleButton } from "./actions.js";
import { citationList, linkMarks } from "./citations.js";
import { copyButton, el, isSend } from "./dom.js";
import { MarkdownView } from "./markdown.js";
import { shownText } from "./typeset.js";

/**
 * Message `n`, a prompt. `handlers` are called for what is done with it: `ask(prompt, n)` with what it was changed to,
 * which resolves to whether it was asked, `open(n, number)` for another of its branches, and `remove(n)`. `kept` reads and
 * writes what it is being changed to (null: nothing), so that this outlives the page.
 */
export function humanArticle(message, n, handlers, kept) {
  const { content } = message;
  const words = el("div", { className: "words", dir: "auto" }, content);
  const ask = { label: "The prompt", done: "Ask again", submit: (prompt) => handlers.ask(prompt, n) };
  const article = el("article", { className: "message human", "aria-label": "You" }, words, actionsOf(message, n, handlers,
    copyButton("Copy the message", () => content),
    idleButton("edit", "Edit the prompt", () => openEditor(article, content, ask, kept).focus()),
    deleteButton("Delete the message", () => handlers.remove(n))));
  if (kept.read() !== null) openEditor(article, content, ask, kept);
  return article;
}

/**
 * Message `n`, an answer and its thoughts, with `figures` as `figuresOf` gives them. `handlers` are as for a prompt;
 * `again(n)` is called to have another answer, `change(n, content)` with what a person has made of it, which resolves to
 * whether it is stored, and `goOn()` to continue it, where it is the last one and was cut.
 */
export function answerArticle(message, n, figures, handlers, kept) {
  const { content, reasoning, cut } = message;
  const view = new MarkdownView();
  view.show(content, reasoning);
  nameThoughts(view.element, figures?.thought_seconds);
  linkMarks(view.element, figures?.citations);
  const change = { label: "The answer", done: "Save", submit: (text) => handlers.change(n, text) };
  const actions = actionsOf(message, n, handlers,
    copyButton("Copy as Markdown", () => content),
    copyButton("Copy as text", () => shownText(view.element).trim(), "text"),
    idleButton("again", "Answer again", () => handlers.again(n)),
    idleButton("edit", "Edit the answer", () => openEditor(article, content, change, kept).focus()),
    deleteButton("Delete the answer", () => handlers.remove(n)));
  if (figures) actions.append(el("span", { className: "figures" }, figuresText(figures)));
  const ended = cut && content ? el("p", { className: "cut faint only-last" }, cutText(figures),
    el("button", { type: "button", className: "idle-only", onclick: () => handlers.goOn() }, "Continue")) : null;
  const article = el("article", { className: "message ai", "aria-label": "Answer" }, view.element, ended, citationList(figures?.citations), actions);
  if (kept.read() !== null) openEditor(article, content, change, kept);
  return article;
}

/** Say above an answer's thoughts how long they took. */
function nameThoughts(element, seconds) {
  const summary = element.querySelector(".thoughts > summary");
  if (summary && seconds) summary.textContent = `Thought for ${seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`}`;
}

/** The line where the conversation is out of the model's sight. */
export function forgottenMark() {
  return el("p", { className: "forgotten" }, "The model no longer reads what stands above.");
}

function cutText(figures) {
  if (figures?.finish_reason === "cancelled") return "Answer stopped. ";
  return figures ? `Answer cut at ${figures.usage.completion_tokens} tokens. ` : "Answer cut. ";
}

/** A system prompt that other clients have set. */
export function systemNote(content) {
  return el("p", { className: "system" }, `From here on by this system prompt: ${content}`);
}

/** What a new chat shows: how it can begin, and a hint below. */
export function welcome(beginnings, hint) {
  return el("div", { className: "welcome" }, el("h2", {}, "What would you like to know?"),
    el("p", { className: "faint" }, "Answers are computed on your own server. Nothing leaves it."), beginnings, hint);
}

/** What is worth keeping of how an answer came about. */
export const figuresOf = ({ profile, usage, timings, finish_reason, messages_left_out, citations, thought_seconds }) =>
  ({ profile, usage, timings, finish_reason, messages_left_out, citations, thought_seconds });

/** "12.3 tokens/s · 40 of 52 prompt tokens cached · first token after 120 ms · Guide · 12 earlier messages left out". */
function figuresText({ usage, timings, finish_reason, profile, messages_left_out }) {
  const speed = usage.completion_tokens > 1 && timings.generation_ms > 0
    ? (usage.completion_tokens - 1) / (timings.generation_ms / 1000) : null;
  const ended = finish_reason === "cancelled" ? "stopped" : null;
  return [
    speed === null ? null : `${speed >= 100 ? Math.round(speed) : speed.toFixed(1)} tokens/s`,
    `${usage.cached_tokens} of ${usage.prompt_tokens} prompt tokens cached`,
    `first token after ${seconds(timings.first_token_ms)}`,
    profile,
    ended,
    leftOut(messages_left_out),
  ].filter(Boolean).join(" · ");
}

/** What the model has not read of the conversation: it did not fit, or the memory is set to less. */
function leftOut(count) {
  if (!count) return null;
  return count === 1 ? "1 earlier message left out" : `${count} earlier messages left out`;
}

const seconds = (ms) => (ms < 995 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

function openEditor(article, content, { label, done, submit: store }, kept) {
  const opened = article.querySelector("form textarea");
  if (opened) return opened;
  const rows = Math.min(content.split("\n").length + 1, 12);
  const oninput = () => kept.write(field.value);
  const field = el("textarea", { value: kept.read() ?? content, rows, oninput, "aria-label": label });
  const close = () => {
    kept.write(null);
    form.remove();
    article.classList.remove("editing");
  };
  const submit = async (event) => {
    event.preventDefault();
    const written = field.value;
    if (!written.trim()) return close();
    // The message is drawn anew, without its editor.
    kept.write(null);
    if (await store(written)) return close();
    // Where that may not be now, what was written stays.
    kept.write(written);
    field.focus();
  };
  const form = el("form", { className: "edit", onsubmit: submit }, field, el("div", { className: "row end" },
    el("button", { type: "button", onclick: close }, "Cancel"), el("button", { className: "primary" }, done)));
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      close();
    } else if (isSend(event) && event.target === field && label === "The prompt") {
      submit(event);
    }
  });
  article.classList.add("editing");
  article.prepend(form);
  return field;
}
