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

/** Open the citation of this number below an answer; false if it has none. */
export function openCitation(article, number) {
  for (const details of article.querySelectorAll(".citations details")) {
    if (details.querySelector(".mark").textContent !== `[${number}]`) continue;
    details.open = true;
    details.querySelector("summary").focus();
    details.scrollIntoView({ block: "nearest" });
    return true;
  }
  return false;
}
