// The panel on the right: one at a time, opened by its button and closed by the same, its cross, or Esc.

import { byId } from "./dom.js";

export class Panels {
  /** `panels` are name → [title, open(body)]; what `open` returns may `close` it and `refresh` it. */
  constructor(panels, onshow) {
    this.panels = panels;
    this.onshow = onshow;
    this.shown = null;
    for (const name of Object.keys(panels)) byId(`open-${name}`).addEventListener("click", () => this.#toggle(name));
    byId("close-panel").addEventListener("click", () => this.hide());
  }

  show(name) {
    const from = this.shown?.from ?? document.activeElement;
    this.hide();
    const [title, open] = this.panels[name];
    byId("panel-title").textContent = title;
    byId("panel").hidden = false;
    this.shown = { ...open(byId("panel-body")), name, from };
    this.onshow();
    byId("close-panel").focus();
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
