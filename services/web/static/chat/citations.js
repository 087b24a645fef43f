// The passages of own files that an answer cites: each opens below the answer.

import { el } from "./dom.js";

/** The list of an answer's citations; null where there are none. */
export function citationList(citations) {
  if (!citations?.length) return null;
  const isCited = citations.some(({ cited }) => cited);
  return el("section", { className: "citations", "aria-label": "Sources" },
    el("p", { className: "faint" }, isCited ? "Sources" : "Passages that may have the answer"),
    ...citations.map(({ number, name, page, heading, text }) => el("details", {},
      el("summary", {}, el("span", { className: "mark" }, `[${number}]`), ` ${[name, page && `page ${page}`, heading].filter(Boolean).join(" · ")}`),
      el("blockquote", { dir: "auto" }, text))));
}

/** Make each mark such as [1] in an answer's text a button that opens its passage. */
export function linkMarks(element, citations) {
  const known = new Set((citations ?? []).filter(({ cited }) => cited).map(({ number }) => number));
  if (!known.size) return;
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT, ({ parentElement }) =>
    (parentElement.closest("code, pre, a, math, .thoughts") ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT));
  const texts = [];
  while (walker.nextNode()) texts.push(walker.currentNode);
  for (const node of texts) {
    const parts = node.data.split(/(\[\d{1,4}\])/);
    if (parts.length === 1) continue;
    node.replaceWith(...parts.filter(Boolean).map((part) => {
      const number = Number(/^\[(\d+)\]$/.exec(part)?.[1]);
      if (!known.has(number)) return part;
      const open = () => openCitation(element.closest("article"), number);
      return el("button", { type: "button", className: "mark-link", "aria-label": `Source ${number}`, onclick: open }, part);
    }));
  }
}

/** Open the citation of this number below an answer; false if it has none. */
function openCitation(article, number) {
  for (const details of article.querySelectorAll(".citations details")) {
    if (details.querySelector(".mark").textContent !== `[${number}]`) continue;
    details.open = true;
    details.querySelector("summary").focus();
    details.scrollIntoView({ block: "nearest" });
    return true;
  }
  return false;
}
