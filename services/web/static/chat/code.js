// Blocks of code: the language's name, a copy button, colours, and a drawing where the code describes one.

import { coloured } from "./colours.js";
import { drawButton } from "./diagrams.js";
import { copyButton, el } from "./dom.js";

// Beyond this a code block stays in one colour, so that long answers stay quick.
const MOST_COLOURED = 50_000;

/** Frame a code block, with its language's name, a copy button, and colours. */
export function frameCode(code) {
  const language = /^language-(.+)$/.exec(code.className)?.[1] ?? "";
  const text = code.textContent.replace(/\n$/, "");
  const pre = code.parentElement;
  const buttons = el("div", { className: "row" }, copyButton("Copy the code", () => text));
  const frame = el("div", { className: "code" }, el("div", { className: "code-head" }, el("span", {}, language || "code"), buttons));
  pre.replaceWith(frame);
  pre.tabIndex = 0;
  pre.setAttribute("role", "region");
  pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
  frame.append(pre);
  if (language === "mermaid") buttons.prepend(drawButton(text, pre));
  if (language && text.length < MOST_COLOURED) colour(code, text, language);
}

/** A code block whose colours cannot be had stays as it is. */
async function colour(code, text, language) {
  const pieces = await coloured(text, language).catch(() => null);
  if (pieces) code.replaceChildren(pieces);
}
