// From a model's Markdown to elements. What a model writes is never trusted: HTML in it is shown as text, and what the
// parser makes of the rest passes a sanitizer that knows a short list of tags.

import { Marked } from "/page/marked/marked.esm.js";
import "/page/dompurify/purify.min.js";
import { coloured } from "./colours.js";
import { copyButton, el } from "./dom.js";

const purify = globalThis.DOMPurify;
const TAGS = (
  "p br hr h1 h2 h3 h4 h5 h6 em strong del code pre blockquote ul ol li a table thead tbody tr th td"
).split(" ");
const RULES = { ALLOWED_TAGS: TAGS, ALLOWED_ATTR: ["href", "title", "start", "align", "class"], ALLOW_DATA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i, RETURN_DOM_FRAGMENT: true };
// Beyond this a code block stays in one colour, so that long answers stay quick.
const MOST_COLOURED = 50_000;

const escape = (text) => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text, block }) => (block ? `<p>${escape(text)}</p>` : escape(text)),
    // A picture from elsewhere would tell that place who reads what.
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer");
  }
  if (node.hasAttribute("class") && !(node.tagName === "CODE" && /^language-[\w+#.-]+$/.test(node.className))) {
    node.removeAttribute("class");
  }
});

/** Shows a text that grows: only what has changed since is made anew, so that a selection in the rest stays. */
export class MarkdownView {
  constructor() {
    this.element = el("div", { className: "markdown" });
    this.shown = [];
    this.text = null;
    this.reasoning = null;
  }

  /** Show an answer, and folded above it the model's thoughts, if there are any. */
  show(text, reasoning = "") {
    if (text === this.text && reasoning === this.reasoning) return;
    this.text = text;
    this.reasoning = reasoning;
    const [thoughts, answer] = reasoning ? [reasoning, text] : splitThoughts(text);
    const pieces = thoughts === null ? [] : [{ raw: `thoughts ${thoughts}`, make: (old) => foldedThoughts(thoughts, old) }];
    try {
      const tokens = marked.lexer(answer).filter((token) => token.type !== "space" && token.type !== "def");
      pieces.push(...tokens.map((token) => ({ raw: token.raw, make: () => render([token]) })));
      pieces.forEach((piece, n) => this.#place(n, piece));
    } catch {
      // What the parser cannot take, thousands of nested quotes say, is shown as it is.
      pieces.splice(thoughts === null ? 0 : 1, pieces.length, { raw: answer, make: () => el("pre", { className: "plain" }, answer) });
      pieces.forEach((piece, n) => this.#place(n, piece));
    }
    for (const { node } of this.shown.splice(pieces.length)) node.remove();
  }

  #place(n, { raw, make }) {
    const old = this.shown[n];
    if (old?.raw === raw) return;
    const node = make(old?.node);
    if (old) old.node === node || old.node.replaceWith(node);
    else this.element.append(node);
    this.shown[n] = { raw, node };
  }
}

/** What stands between <think> and </think> at the beginning, where the server does not read thoughts (null: nothing), and the rest. */
function splitThoughts(text) {
  const found = /^\s*<think>([\s\S]*?)(<\/think>|$)/.exec(text);
  return found ? [found[1].trim(), text.slice(found[0].length)] : [null, text];
}

/** The thoughts so far: in the same element, so that it stays as open as it is. */
function foldedThoughts(thoughts, old) {
  const folded = old?.matches("details") ? old : el("details", { className: "thoughts" }, el("summary", {}, "Thoughts"), el("p"));
  folded.lastChild.textContent = thoughts;
  return folded;
}

function render(tokens) {
  const block = el("div", { className: "block" }, purify.sanitize(marked.parser(tokens), RULES));
  for (const code of block.querySelectorAll("pre > code")) frameCode(code);
  for (const table of block.querySelectorAll("table")) {
    const frame = el("div", { className: "table-frame", tabIndex: 0, role: "region", "aria-label": "Table" });
    table.replaceWith(frame);
    frame.append(table);
  }
  return block;
}

/** Give a code block its language's name, a copy button, and colours. */
function frameCode(code) {
  const language = /^language-(.+)$/.exec(code.className)?.[1] ?? "";
  const text = code.textContent.replace(/\n$/, "");
  const pre = code.parentElement;
  const head = el("div", { className: "code-head" }, el("span", {}, language || "code"), copyButton("Copy the code", () => text));
  const frame = el("div", { className: "code" }, head);
  pre.replaceWith(frame);
  pre.tabIndex = 0;
  pre.setAttribute("role", "region");
  pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
  frame.append(pre);
  if (language && text.length < MOST_COLOURED) colour(code, text, language);
}

/** A code block whose colours cannot be had stays as it is. */
async function colour(code, text, language) {
  const pieces = await coloured(text, language).catch(() => null);
  if (pieces) code.replaceChildren(pieces);
}
