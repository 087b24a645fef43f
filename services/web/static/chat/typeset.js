// Formulas as MathML, which browsers draw and screen readers read. The library comes with the first formula.

import { el } from "./dom.js";
import { formulaAt } from "./math.js";

// Nothing in a formula may be a link, a picture, a class or an id, and its macros and lengths are bounded.
const OPTIONS = { trust: false, strict: false, throwOnError: true, maxSize: [30, 30], maxExpand: 1000 };
// A formula that defines macros can grow fast: each of them may be as long as the formula.
const DEFINES = /\\(?:[egx]?def|g?let|futurelet|(?:re|provide)?newcommand|providecommand|DeclareMathOperator)(?![a-zA-Z])/;
const MOST_EXPANDED = 50;
const LONGEST = 5000;
const LONGEST_DEFINING = 300;
const MOST_ELEMENTS = 10_000;
const DEEPEST = 100;
const MATHML = "http://www.w3.org/1998/Math/MathML";
const ATTRIBUTES = new Set((
  "class style display displaystyle scriptlevel mathvariant mathsize mathcolor mathbackground width height depth lspace rspace " +
  "voffset minsize maxsize stretchy symmetric fence separator form largeop movablelimits accent accentunder linethickness " +
  "columnalign rowspacing columnspacing columnlines rowlines columnspan rowspan side notation linebreak"
).split(" "));
// This long other things have to wait, in milliseconds.
const SLICE = 25;
const MOST_KEPT = 500;

const waiting = [];
const kept = new Map();
const sources = new WeakMap();
let library = null;
let isWorking = false;

/** Typeset the formula whose source an element shows. It stays what it is while the library comes, and where it cannot. */
export function typeset(element) {
  sources.set(element, element.textContent);
  waiting.push({ element, source: element.textContent, display: element.classList.contains("math-display") });
  if (!isWorking) work();
}

/** What an element shows as text, with the sources of its formulas: a fraction without its line is another number. */
export function shownText(element) {
  const formulas = [...element.querySelectorAll(".math, .math-display")].map((formula) => [formula, [...formula.childNodes]]);
  for (const [formula] of formulas) formula.replaceChildren(sources.get(formula));
  const text = element.innerText;
  for (const [formula, nodes] of formulas) formula.replaceChildren(...nodes);
  return text;
}

async function work() {
  isWorking = true;
  try {
    library ??= load();
    const temml = await library;
    let until = performance.now() + SLICE;
    while (waiting.length) {
      show(waiting.shift(), temml);
      if (performance.now() < until) continue;
      await new Promise((resolve) => setTimeout(resolve));
      until = performance.now() + SLICE;
    }
  } catch {
    // The next formula tries again.
    library = null;
    waiting.length = 0;
  } finally {
    isWorking = false;
  }
}

async function load() {
  const { default: temml } = await import("/page/temml/temml.mjs");
  await new Promise((resolve) => {
    const link = el("link", { rel: "stylesheet", href: "/page/temml/Temml-Local.css", onload: resolve, onerror: resolve });
    // Before the page's own, which have the last word.
    document.head.prepend(link);
  });
  return temml;
}

function show({ element, source, display }, temml) {
  const name = `${display} ${source}`;
  const made = kept.get(name) ?? formulaOf(source, display, temml);
  kept.delete(name);
  kept.set(name, made);
  if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value);
  if (made.error) {
    element.classList.add("math-wrong");
    element.title = made.error;
  } else {
    element.replaceChildren(made.math.cloneNode(true));
    watch(element.closest(".block"));
  }
}

/** The formula as an element, or why it cannot be shown. */
function formulaOf(source, display, temml) {
  try {
    return { math: mathOf(formulaAt(source).tex, display, temml) };
  } catch (error) {
    if (!(error instanceof temml.ParseError)) return { error: "This formula is too large, or not complete." };
    // The library underlines the place by a character after each letter.
    return { error: error.message.replaceAll("\u0332", "").replace(/\s+/g, " ").trim() };
  }
}

/**
 * The formula as one element. It is safe to show, whatever a model has written: the library makes elements and text, never
 * markup that is parsed, and of these only elements of MathML stay, with attributes that neither run, load, link nor name
 * anything. What their style moves elsewhere is cut off by the block that they are in.
 */
function mathOf(tex, display, temml) {
  const defines = DEFINES.test(tex);
  if (tex.length > (defines ? LONGEST_DEFINING : LONGEST)) throw new RangeError("long");
  const holder = el("span");
  const maxExpand = defines ? MOST_EXPANDED : OPTIONS.maxExpand;
  temml.render(tex, holder, { ...OPTIONS, maxExpand, displayMode: display, wrap: display ? "none" : "tex" });
  const math = holder.firstElementChild;
  if (math?.namespaceURI !== MATHML) throw new RangeError("no formula");
  if (holder.getElementsByTagName("*").length > MOST_ELEMENTS) throw new RangeError("many");
  clean(math, 0);
  return math;
}

function clean(element, depth) {
  if (depth > DEEPEST) throw new RangeError("deep");
  for (const { name } of [...element.attributes]) if (!ATTRIBUTES.has(name)) element.removeAttribute(name);
  for (const child of [...element.children]) {
    if (child.namespaceURI === MATHML) clean(child, depth + 1);
    else child.replaceWith(document.createTextNode(child.textContent));
  }
}

/** Look at the formulas of a block once it has its size, and whenever that changes. */
function watch(block) {
  if (!block) return;
  sizes.unobserve(block);
  sizes.observe(block);
}

const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) for (const formula of target.querySelectorAll(".math, .math-display")) fit(formula);
});

/** A formula that is wider than its place gets a frame that scrolls, by the keyboard too. */
function fit(formula) {
  const width = formula.firstElementChild?.getBoundingClientRect().width ?? 0;
  const room = formula.closest("p, li, td, th, h1, h2, h3, h4, h5, h6, .block").clientWidth;
  // A table has a frame already.
  const isWide = width > room + 1 && !formula.closest("table");
  formula.classList.toggle("math-wide", isWide);
  for (const [name, value] of [["tabindex", "0"], ["role", "group"], ["aria-label", "Formula"]]) {
    if (isWide) formula.setAttribute(name, value);
    else formula.removeAttribute(name);
  }
}
