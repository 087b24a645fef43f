// The panel on the right: one at a time, opened by its button and closed by the same, its cross, or Esc.

import { byId, el } from "./dom.js";

export class Panels {
  /** `panels` are name → [title, load()]; that resolves to `open(body)`, and what this returns may `close` it and `refresh` it. */
  constructor(panels, onshow) {
    this.panels = panels;
    this.onshow = onshow;
    this.shown = null;
    for (const name of Object.keys(panels)) byId(`open-${name}`).addEventListener("click", () => this.#toggle(name));
    byId("close-panel").addEventListener("click", () => this.hide());
  }

  async show(name) {
    const from = this.shown?.from ?? document.activeElement;
    this.hide();
    const [title, load] = this.panels[name];
    byId("panel-title").textContent = title;
    byId("panel").hidden = false;
    const shown = { name, from };
    this.shown = shown;
    this.onshow();
    byId("close-panel").focus();
    try {
      const open = await load();
      // Another may have been opened meanwhile.
      if (this.shown === shown) Object.assign(shown, open(byId("panel-body")));
    } catch {
      const problem = el("p", { className: "error", role: "alert" }, "The server does not answer. Close this, and open it again.");
      if (this.shown === shown) byId("panel-body").replaceChildren(problem);
    }
  }

  hide() {
    if (!this.shown) return;
    const { close, from } = this.shown;
    this.shown = null;
    close?.();
    byId("panel").hidden = true;
    byId("panel-body").replaceChildren();
    from.focus();
  }

  /** Another conversation is open now. */
  refresh() {
    this.shown?.refresh?.();
  }

  #toggle(name) {
    if (this.shown?.name === name) this.hide();
    else this.show(name);
  }
}
