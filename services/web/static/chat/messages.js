// What the messages of a conversation look like, and what can be done with each.

import { copyButton, el, iconButton, isSend } from "./dom.js";
import { MarkdownView } from "./markdown.js";

/**
 * A prompt; `askAnew(prompt)` is called with what it was changed to, and resolves to whether it was asked. `kept` reads and
 * writes what it is being changed to (null: nothing), so that this outlives the page.
 */
export function humanArticle(content, askAnew, kept) {
  const words = el("div", { className: "words" }, content);
  const actions = el("div", { className: "actions" }, copyButton("Copy the message", () => content));
  const article = el("article", { className: "message human", "aria-label": "You" }, words, actions);
  const edit = iconButton("edit", "Edit the prompt", () => openEditor(article, content, askAnew, kept).focus());
  edit.classList.add("only-last");
  actions.append(edit);
  if (kept.read() !== null) openEditor(article, content, askAnew, kept);
  return article;
}

/** An answer and its thoughts, with `figures` as `figuresOf` gives them; `again()` is called to have another. */
export function answerArticle({ content, reasoning }, figures, again) {
  const view = new MarkdownView();
  view.show(content, reasoning);
  const button = iconButton("again", "Answer again", again);
  button.classList.add("only-last");
  const actions = el("div", { className: "actions" }, copyButton("Copy the answer", () => content), button);
  if (figures) actions.append(el("span", { className: "figures" }, figuresText(figures)));
  return el("article", { className: "message ai", "aria-label": "Answer" }, view.element, actions);
}

/** A system prompt that other clients have set. */
export function systemNote(content) {
  return el("p", { className: "system" }, `From here on by this system prompt: ${content}`);
}

/** What a new chat shows, with a hint below. */
export function welcome(hint) {
  return el("div", { className: "welcome" }, el("h2", {}, "What would you like to know?"),
    el("p", { className: "faint" }, "Answers are computed on your own server. Nothing leaves it."), hint);
}

/** What is worth keeping of how an answer came about. */
export const figuresOf = ({ profile, usage, timings, finish_reason, messages_left_out }) =>
  ({ profile, usage, timings, finish_reason, messages_left_out });

/** "12.3 tokens/s · 40 of 52 prompt tokens cached · first token after 120 ms · Guide · 12 earlier messages left out". */
function figuresText({ usage, timings, finish_reason, profile, messages_left_out }) {
  const speed = usage.completion_tokens > 1 && timings.generation_ms > 0
    ? (usage.completion_tokens - 1) / (timings.generation_ms / 1000) : null;
  const ended = { length: "cut at its longest", cancelled: "stopped" }[finish_reason];
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

function openEditor(article, content, askAnew, kept) {
  const opened = article.querySelector("form textarea");
  if (opened) return opened;
  const rows = Math.min(content.split("\n").length + 1, 12);
  const oninput = () => kept.write(field.value);
  const field = el("textarea", { value: kept.read() ?? content, rows, oninput, "aria-label": "The prompt" });
  const close = () => {
    kept.write(null);
    form.remove();
    article.classList.remove("editing");
  };
  const submit = async (event) => {
    event.preventDefault();
    // Where it may not be asked now, what was written stays.
    if (!field.value.trim() || (await askAnew(field.value))) close();
    else field.focus();
  };
  const form = el("form", { className: "edit", onsubmit: submit }, field, el("div", { className: "row end" },
    el("button", { type: "button", onclick: close }, "Cancel"), el("button", { className: "primary" }, "Ask again")));
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      close();
    } else if (isSend(event) && event.target === field) {
      submit(event);
    }
  });
  article.classList.add("editing");
  article.prepend(form);
  return field;
}
