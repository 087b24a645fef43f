// How full the model's context is, as of the last answer.

import { call } from "./api.js";
import { byId, el } from "./dom.js";

// From this share on the page warns.
const NEARLY = 0.8;

export class ContextGauge {
  constructor() {
    this.place = byId("context");
    this.sizes = new Map();
    this.drawn = 0;
  }

  /** Show it by the figures of the open conversation's last answer; undefined hides it. */
  async show(figures) {
    const turn = (this.drawn += 1);
    const size = figures?.usage && (await this.#sizeOf(figures.profile));
    if (turn !== this.drawn) return;
    this.place.hidden = !size;
    if (!size) return;
    const used = figures.usage.prompt_tokens + figures.usage.completion_tokens;
    const share = Math.min(used / size, 1);
    const percent = Math.round(100 * share);
    const meter = el("meter", { min: 0, max: 1, high: NEARLY, value: share, "aria-label": "How full the model's memory is" });
    const words = figures.messages_left_out ? "full: the model forgets the beginning"
      : share >= NEARLY ? `${percent} % full: soon the model forgets the beginning` : `${percent} % full`;
    this.place.title = `${used.toLocaleString("en")} of ${size.toLocaleString("en")} tokens`;
    this.place.classList.toggle("nearly", share >= NEARLY);
    this.place.replaceChildren(meter, ` Memory ${words}`);
  }

  /** The tokens of a profile's context; undefined where that is not known. */
  async #sizeOf(profile) {
    if (!this.sizes.has(profile)) {
      const known = await call("GET", "/v1/models").catch(() => ({ data: [] }));
      for (const { id, context_length: size } of known.data) this.sizes.set(id, size);
      if (!this.sizes.has(profile)) this.sizes.set(profile, undefined);
    }
    return this.sizes.get(profile);
  }
}
