// From a model's Markdown to elements. What a model writes is never trusted: HTML in it is shown as text, and what the
// parser makes of the rest passes a sanitizer that knows a short list of tags.

import { Marked } from "/page/marked/marked.esm.js";
import "/page/dompurify/purify.min.js";
import { frameCode } from "./code.js";
import { setDirections } from "./directions.js";
import { el } from "./dom.js";
import { footnotesExtension, footnotesSection, linkReferences, numbered } from "./footnotes.js";
import { mathExtension } from "./math.js";
import { showTasks } from "./tasks.js";
import { typeset } from "./typeset.js";

const purify = globalThis.DOMPurify;
const TAGS = (
  "p br hr h1 h2 h3 h4 h5 h6 em strong del code pre blockquote ul ol li a table thead tbody tr th td span sup"
).split(" ");
const RULES = {
  ALLOWED_TAGS: TAGS, ALLOWED_ATTR: ["href", "title", "start", "align", "class"], ALLOW_DATA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i, ADD_URI_SAFE_ATTR: ["start", "align"], RETURN_DOM_FRAGMENT: true,
};
// What is written here for what Markdown does not know of; a model cannot write them.
const CLASSES = new Set(["math", "math-display", "plain", "reference", "task"]);

const escape = (text) => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text, block }) => (block ? `<p>${escape(text)}</p>` : escape(text)),
    // A picture from elsewhere would tell that place who reads what.
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
    checkbox: ({ checked }) => `<span class="task">${checked ? "x" : "o"}</span>`,
  },
});
marked.use(mathExtension({
  html: (source, display) => `<span class="${display ? "math-display" : "math"}">${escape(source)}</span>`,
  text: (source) => `<p class="plain">${escape(source)}</p>`,
}));
marked.use(footnotesExtension({ html: (mark) => `<sup class="reference">${mark}</sup>`, text: escape }));

purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer");
  }
  const isKnown = CLASSES.has(node.className) || (node.tagName === "CODE" && /^language-[\w+#.-]+$/.test(node.className));
  if (node.hasAttribute("class") && !isKnown) node.removeAttribute("class");
});

let views = 0;

/** Shows a text that grows: only what has changed since is made anew, so that a selection in the rest stays. */
export class MarkdownView {
  constructor() {
    this.element = el("div", { className: "markdown" });
    this.number = views += 1;
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
      pieces.push(...this.#pieces(answer));
      pieces.forEach((piece, n) => this.#place(n, piece));
    } catch {
      // What the parser cannot take, thousands of nested quotes say, is shown as it is.
      const plain = { raw: answer, make: () => el("pre", { className: "plain", dir: "auto" }, answer) };
      pieces.splice(thoughts === null ? 0 : 1, pieces.length, plain);
      pieces.forEach((piece, n) => this.#place(n, piece));
    }
    for (const { node } of this.shown.splice(pieces.length)) node.remove();
  }

  /** The blocks of an answer, each with what it is made of, and its footnotes as the last. */
  #pieces(answer) {
    const tokens = marked.lexer(answer);
    const footnotes = answer.includes("[^") ? numbered(tokens, (token, look) => marked.walkTokens([token], look)) : [];
    const words = tokens.filter(({ type }) => !["space", "def", "footnote"].includes(type));
    const pieces = words.map((token) => ({ raw: token.raw + (token.marks ?? ""), make: () => this.#block([token]) }));
    if (footnotes.length) {
      const raw = footnotes.map(({ number, references, token }) => `${number} ${references} ${token.raw}`).join("\n");
      const make = () => footnotesSection(footnotes, this.number, (token) => this.#block(token.tokens));
      pieces.push({ raw: `footnotes ${raw}`, make });
    }
    return pieces;
  }

  #block(tokens) {
    const block = render(tokens);
    linkReferences(block, this.number);
    return block;
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
  const made = () => el("details", { className: "thoughts" }, el("summary", {}, "Thoughts"), el("p", { dir: "auto" }));
  const folded = old?.matches("details") ? old : made();
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
  showTasks(block);
  setDirections(block);
  for (const formula of block.querySelectorAll(".math, .math-display")) typeset(formula);
  return block;
}
