// Formulas in Markdown: $…$ and \(…\) in a line, $$…$$ and \[…\] on lines of their own. They are found before Markdown's own
// rules, so that nothing in them is read as emphasis, a cell's border, a tag or an escape.

import { Tokenizer } from "/page/marked/marked.esm.js";

const DELIMITERS = [["$$", "$$", true], ["\\[", "\\]", true], ["\\(", "\\)", false], ["$", "$", false]];
const BLANK_LINE = /\n[ \t]*(?:\n|$)/y;
// "$5 and a bill in US$" begins like a formula, and is money.
const MONEY = /^[\d.,]+\s+(?:\p{L}{3}|(?:to|or|in|of|is)\s)/u;
// Code, signs that open none, and escapes.
const KEPT = /(`+)[^`](?:[^]*?[^`])?\1(?!`)|`+|\\[^]/y;
// A table's cells are parted before the words in them are read: until then a border within a formula is this character.
const HIDDEN_BORDER = "\uE000";
const rules = Tokenizer.prototype;

/**
 * The formula that begins at a place in a text, after the character `before`: its source, its TeX, and whether it stands on its
 * own; null: there is none.
 */
export function formulaAt(text, at = 0, before = text[at - 1] ?? "") {
  const [open, close, display] = DELIMITERS.find(([sign]) => text.startsWith(sign, at)) ?? [];
  // "US$" and "30$" end with a sign that begins no formula.
  if (!open || (open === "$" && /[A-Za-z0-9]/.test(before))) return null;
  const begin = at + open.length;
  for (let n = begin; n < text.length; n += 1) {
    if (text.startsWith(close, n)) return formulaBetween(text, { at, begin, end: n, open, close, display });
    if (text[n] === "\\") {
      if (text.startsWith(open, n)) return null;
      n += 1;
    } else if (open === "$" && text[n] === "`") {
      return null;
    } else if (text[n] === "\n" && matchesAt(BLANK_LINE, text, n)) {
      return null;
    }
  }
  return null;
}

function formulaBetween(text, { at, begin, end, open, close, display }) {
  const tex = text.slice(begin, end);
  if (!tex.trim()) return null;
  const after = end + close.length;
  if (open === "$" && (/^\s|\s$/.test(tex) || /\d/.test(text[after] ?? "") || MONEY.test(tex))) return null;
  // The point after a formula that stands on its own belongs to its line.
  const point = display ? /^[.,;:]?/.exec(text.slice(after, after + 1))[0] : "";
  return { raw: text.slice(at, after) + point, tex: tex + point, display };
}

function matchesAt(pattern, text, at) {
  pattern.lastIndex = at;
  return pattern.exec(text)?.[0] ?? null;
}

/** The text with `hide(source)` in the place of each formula, code in it left as it is. */
function withoutFormulas(text, hide) {
  let made = "";
  let n = 0;
  while (n < text.length) {
    const formula = formulaAt(text, n);
    const kept = formula?.raw ?? matchesAt(KEPT, text, n) ?? text[n];
    made += formula ? hide(kept) : kept;
    n += kept.length;
  }
  return made;
}

const mayHaveFormulas = (text) => text.includes("$") || text.includes("\\(") || text.includes("\\[");

let known = {};

/** What Markdown looks for the ends of emphasis in, without those in formulas. `rest` is the end of the source of `masked`. */
function maskedFormulas(rest, masked) {
  if (!mayHaveFormulas(rest)) return masked;
  if (known.masked !== masked || known.from > masked.length - rest.length) {
    const from = masked.length - rest.length;
    let shown = "";
    // The same length, so that places stay what they are; outside formulas it stays masked as it was.
    const hidden = withoutFormulas(rest, (raw) => HIDDEN_BORDER.repeat(raw.length));
    for (let n = 0; n < hidden.length; n += 1) shown += hidden[n] === HIDDEN_BORDER ? "+" : masked[from + n];
    known = { masked, from, made: masked.slice(0, from) + shown };
  }
  return known.made;
}

/** A table whose formulas may have `|` in them. */
function table(source) {
  const end = source.search(/\n[ \t]*\n/);
  const text = end < 0 ? source : source.slice(0, end + 1);
  if (!mayHaveFormulas(text) || !text.includes("|")) return false;
  const hidden = withoutFormulas(text, (raw) => raw.replaceAll("|", HIDDEN_BORDER));
  const before = this.lexer.inlineQueue.length;
  const token = rules.table.call(this, hidden);
  if (!token) return false;
  for (const each of this.lexer.inlineQueue.slice(before)) each.src = each.src.replaceAll(HIDDEN_BORDER, "|");
  token.raw = text.slice(0, token.raw.length);
  return token;
}

/** A line of = or - below words makes them a heading, but for one in a formula. */
function lheading(source) {
  const token = rules.lheading.call(this, source);
  const at = token ? blockStart(token.raw) : undefined;
  if (at === undefined) return token;
  return formulaAt(source, at)?.raw.length > token.raw.length - at ? undefined : token;
}

function blockStart(source) {
  const found = ["\n$$", "\n\\["].map((sign) => source.indexOf(sign)).filter((at) => at >= 0);
  return found.length ? Math.min(...found) + 1 : undefined;
}

/** What makes Marked find formulas; `html` writes one, and `text` what may become one. */
export const mathExtension = ({ html, text }) => ({
  extensions: [
    {
      name: "formulaBlock",
      level: "block",
      start: blockStart,
      tokenizer(source) {
        const indent = /^ {0,3}/.exec(source)[0].length;
        const formula = formulaAt(source, indent);
        if (!formula?.display) return unfinished(source.slice(indent), source);
        const rest = /^[ \t]*\n?/.exec(source.slice(indent + formula.raw.length))[0];
        return { type: "formulaBlock", raw: source.slice(0, indent + formula.raw.length + rest.length), source: formula.raw };
      },
      renderer: ({ source, isOpen }) => (isOpen ? text(source) : `<p>${html(source, true)}</p>`),
    },
    {
      name: "formula",
      level: "inline",
      start: (source) => source.indexOf("$"),
      tokenizer(source, tokens) {
        const formula = formulaAt(source, 0, tokens.at(-1)?.raw.at(-1) ?? "");
        return formula ? { type: "formula", raw: formula.raw, display: formula.display } : undefined;
      },
      renderer: ({ raw, display }) => html(raw, display),
    },
  ],
  tokenizer: {
    table,
    lheading,
    emStrong(rest, masked, before) {
      if (rest[0] !== "*" && rest[0] !== "_") return undefined;
      return rules.emStrong.call(this, rest, maskedFormulas(rest, masked), before);
    },
    del(rest, masked, before) {
      if (rest[0] !== "~") return undefined;
      return rules.del.call(this, rest, maskedFormulas(rest, masked), before);
    },
  },
});

/** A formula of several lines that is being written, up to where it has come: Markdown would make lists and rules of it. */
function unfinished(text, source) {
  if (!/^(?:\$\$|\\\[)[ \t]*\n/.test(text) || /\n[ \t]*\n|\n[^]*(?:\$\$|\\\])/.test(text)) return undefined;
  return { type: "formulaBlock", raw: source, source: source.trimEnd(), isOpen: true };
}
