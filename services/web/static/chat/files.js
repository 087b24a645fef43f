// The model files that are on the server, and a button each that has everybody use it.

import { bytes, el } from "./dom.js";
import { abilities, chats } from "./known.js";

/** The rows of the files; `may(scope)` is as for the panel, and `use(body, name)` has everybody use a model. */
export function fileRows({ may, use }) {
  const list = el("ul", { className: "rows", "aria-label": "Models on this server" });
  const rows = new Map();
  return {
    element: list,
    /** Show what the server says. A file's row stays the same element, so that its button keeps the focus. */
    draw(known) {
      for (const [name, row] of rows) {
        if (known.models.includes(name)) continue;
        row.element.remove();
        rows.delete(name);
      }
      known.models.forEach((name, n) => {
        if (!rows.has(name)) rows.set(name, new Row(name, use));
        const { element } = rows.get(name);
        if (list.children[n] !== element) list.insertBefore(element, list.children[n] ?? null);
        rows.get(name).draw(known, may("models:switch"));
      });
    },
  };
}

class Row {
  constructor(name, use) {
    this.name = name;
    this.use = use;
    this.isBusy = false;
    this.badges = el("span", { className: "badges" });
    this.facts = el("span", {});
    this.problem = el("span", { className: "error" });
    this.button = el("button", { type: "button", onclick: () => this.#start() }, "Use this file");
    this.button.setAttribute("aria-label", `Use this file: ${name}`);
    this.element = el("li", { tabIndex: -1 }, el("strong", {}, name), this.badges, this.facts, this.problem, this.button);
  }

  draw(known, mayUse) {
    const details = known.details[this.name];
    const isUsed = known.profile_details[known.selected]?.model === this.name;
    const badges = [isUsed ? "in use" : null, known.loaded.includes(this.name) ? "in memory" : null].filter(Boolean);
    const drawn = JSON.stringify([details, badges]);
    if (this.drawn !== drawn) {
      this.drawn = drawn;
      this.badges.replaceChildren(...badges.map((badge) => el("span", { className: "badge" }, badge)));
      this.facts.className = details.problem ? "error" : "faint";
      this.facts.textContent = details.problem ? `This file cannot be used: ${details.problem}` : factsOf(details);
    }
    const isHidden = !mayUse || isUsed || Boolean(details.problem) || details.adapter || !chats(details.capabilities);
    // Whoever has pressed it stays where it was.
    if (isHidden && document.activeElement === this.button) this.element.focus();
    this.button.hidden = isHidden;
  }

  async #start() {
    if (this.isBusy) return;
    this.#show(true, "Loading…");
    this.problem.textContent = "";
    try {
      await this.use({ model: this.name }, this.name);
    } catch (error) {
      this.problem.textContent = error.message;
    }
    this.#show(false, "Use this file");
  }

  #show(isBusy, words) {
    this.isBusy = isBusy;
    this.button.setAttribute("aria-disabled", String(isBusy));
    this.button.textContent = words;
    this.button.setAttribute("aria-label", `${words}: ${this.name}`);
  }
}

function factsOf({ size, parts, adapter, capabilities, context_length, note, weights, quantization, architecture }) {
  const reads = context_length ? `reads up to ${context_length} tokens` : null;
  return [bytes(size), parts > 1 ? `${parts} files` : null, ...(adapter ? ["an addition to a model (LoRA)"] : [...abilities(capabilities), reads]),
    note, `${short(weights)} weights`, quantization, architecture].filter(Boolean).join(" · ");
}

/** "0.3 M", "1.5 B". */
const short = (n) => (n >= 1e9 ? `${(n / 1e9).toFixed(1)} B` : `${(n / 1e6).toFixed(1)} M`);
