// Footnotes: [^name] in the words, and [^name]: … on a line of its own. Those that are named are numbered in the order in which
// they are, and stand below the answer, with links there and back that leave the address as it is.

import { setDirections } from "./directions.js";
import { el } from "./dom.js";

const DEFINITION = /^\[\^([^\]\s]{1,100})\]:[ \t]*([^\n]*)(?:\n|$)/;
const REFERENCE = /^\[\^([^\]\s]{1,100})\](?!\()/;
// What ends a footnote that goes on without an indent.
const BLOCK = /^ {0,3}(?:#{1,6}\s|[-*+]\s|\d+[.)]\s|>|```|~~~|\[\^|\||\$\$)/;

const MOST_LINES = 500;

const nameOf = (label) => label.toLowerCase();

/** What makes Marked find footnotes; `html(mark)` writes a reference that has got a mark, and `text` one that leads nowhere. */
export const footnotesExtension = ({ html, text }) => ({
  extensions: [
    {
      name: "footnote",
      level: "block",
      start: (source) => {
        const at = source.indexOf("\n[^");
        return at < 0 ? undefined : at + 1;
      },
      tokenizer(source) {
        const found = DEFINITION.exec(source);
        if (!found) return undefined;
        const lines = [found[2], ...goesOn(source.slice(found[0].length))];
        const raw = source.split("\n", lines.length).join("\n");
        const words = lines.map((line) => line.replace(/^ {1,4}/, "")).join("\n");
        return { type: "footnote", raw, name: nameOf(found[1]), tokens: this.lexer.blockTokens(words, []) };
      },
      renderer: () => "",
    },
    {
      name: "footnoteReference",
      level: "inline",
      tokenizer(source) {
        const found = REFERENCE.exec(source);
        return found ? { type: "footnoteReference", raw: found[0], name: nameOf(found[1]) } : undefined;
      },
      renderer: ({ raw, mark }) => (mark ? html(mark) : text(raw)),
    },
  ],
});

/** The lines after a footnote's first one that belong to it: those that follow at once, and after an empty one the indented. */
function goesOn(text) {
  const lines = text.split("\n", MOST_LINES);
  let end = 0;
  for (const [n, line] of lines.entries()) {
    const isIndented = /^(?: {2,}|\t)\s*\S/.test(line);
    const follows = n === end && line.trim() && !BLOCK.test(line);
    if (isIndented || follows) end = n + 1;
    else if (line.trim()) break;
  }
  return lines.slice(0, end);
}

/**
 * Give each reference its mark, the footnote's number and which reference to it this is, and return the footnotes in their
 * order as `{ number, references, token }`. `walk(token, look)` calls `look` with a token and all within it.
 */
export function numbered(tokens, walk) {
  const defined = new Map();
  const footnotes = new Map();
  for (const token of tokens) {
    walk(token, (each) => {
      if (each.type === "footnote" && !defined.has(each.name)) defined.set(each.name, each);
    });
  }
  if (!defined.size) return [];
  const add = (name) => {
    if (!footnotes.has(name)) footnotes.set(name, { number: footnotes.size + 1, references: 0, token: defined.get(name) });
    return footnotes.get(name);
  };
  for (const token of tokens) {
    token.marks = "";
    walk(token, (each) => {
      if (each.type !== "footnoteReference" || !defined.has(each.name)) return;
      const footnote = add(each.name);
      footnote.references += 1;
      each.mark = `${footnote.number} ${footnote.references}`;
      token.marks += `${each.mark},`;
    });
  }
  // What nothing refers to is not lost.
  for (const name of defined.keys()) add(name);
  return [...footnotes.values()];
}

const noteId = (view, number) => `note-${view}-${number}`;
const referenceId = (view, number, count) => `reference-${view}-${number}-${count}`;

/** Make links of the marks in an element that is shown by the view of this number. */
export function linkReferences(element, view) {
  for (const sign of element.querySelectorAll("sup.reference")) {
    const [number, count] = sign.textContent.split(" ");
    sign.replaceChildren(link(noteId(view, number), number, {
      id: referenceId(view, number, count), role: "doc-noteref", "aria-label": `Footnote ${number}`,
    }));
  }
}

/** The footnotes below an answer; `render(token)` returns what a token's words look like. */
export function footnotesSection(footnotes, view, render) {
  const list = el("ol", {}, ...footnotes.map(({ number, references, token }) => {
    const shown = render(token);
    const last = shown.lastElementChild?.matches("p") ? shown.lastElementChild : shown;
    for (let count = 1; count <= references; count += 1) {
      const [words, label] = references > 1 ? [`↩${count}`, `Back to place ${count} of footnote ${number}`] : ["↩", `Back to footnote ${number}`];
      last.append(" ", link(referenceId(view, number, count), words, { role: "doc-backlink", "aria-label": label }));
    }
    return el("li", { id: noteId(view, number), tabIndex: -1 }, shown);
  }));
  setDirections(list);
  return el("section", { className: "footnotes", "aria-label": "Footnotes" }, list);
}

/** A link to an element of the page. The address stays: it says which conversation this is. */
function link(to, words, props) {
  const go = (event) => {
    event.preventDefault();
    document.getElementById(to)?.focus();
  };
  return el("a", { href: `#${to}`, onclick: go, onauxclick: go, ...props }, words);
}
