// Marking, in a text that was found, the words that it was found by.

import { el } from "./dom.js";

/** The text as nodes, with each place marked where it has these words, in either case. */
export function withHits(text, words) {
  const wanted = words.trim();
  if (!wanted) return [text];
  const pattern = new RegExp(`(${wanted.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&")})`, "giu");
  // Of what is split by a group, every second piece is the group's.
  return text.split(pattern).map((piece, n) => (n % 2 ? el("mark", {}, piece) : piece));
}
