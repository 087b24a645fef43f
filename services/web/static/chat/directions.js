// Which way a text runs: each block by its own first letter, so that Arabic and Hebrew stand on the right.

const SCRIPTS = ["Arabic", "Hebrew", "Syriac", "Thaana", "Nko", "Adlam", "Samaritan", "Mandaic"];
const RIGHT_TO_LEFT = new RegExp(`[${SCRIPTS.map((name) => `\\p{Script=${name}}`).join("")}]`, "u");
// A browser does not look for a block's first letter within blocks that have a direction of their own.
const CONTAINERS = "blockquote, table, li:has(> p, > blockquote, > div)";

/** Give an element's blocks of text their directions. Formulas and code always run from left to right, and decide nothing. */
export function setDirections(element) {
  for (const each of element.querySelectorAll("code, .math, .math-display")) each.dir = "ltr";
  for (const each of element.querySelectorAll("p, h1, h2, h3, h4, h5, h6, th, td, li")) each.dir = "auto";
  for (const each of element.querySelectorAll(CONTAINERS)) each.dir = directionOf(each.textContent);
}

function directionOf(text) {
  return RIGHT_TO_LEFT.test(/\p{L}/u.exec(text)?.[0] ?? "") ? "rtl" : "ltr";
}
