// The line in an empty chat that says so where the model is a tiny one.

import { el } from "./dom.js";
import { askModels } from "./known.js";

// Weights below which a model is good for a first look only.
const TINY = 0.5e9;

export class TinyHint {
  /** `open()` opens the models panel. */
  constructor(open) {
    this.words = el("span", {});
    this.element = el("p", { className: "faint tiny", hidden: true }, this.words, " ", el("button", { type: "button", className: "link", onclick: open }, "Show models"));
  }

  /** Look what would answer: the model that `name` means (a profile or a file), else the selected one. */
  async refresh(name, mayFetch) {
    const known = await askModels().catch(() => null);
    const file = known?.profile_details[name || known.selected]?.model ?? name;
    const details = known?.details[file];
    this.element.hidden = !details || details.problem || !(details.weights < TINY);
    const called = known?.catalog.find((entry) => entry.file === file)?.name ?? details?.name ?? file;
    this.words.textContent = `${called} is a tiny model for a first look. For real work, ${mayFetch ? "fetch" : "ask for"} a larger one.`;
  }
}
