// One tab stop for a long list: the arrows, Home and End move in it.

/** The elements of `area` that `selector` finds are one tab stop, the one that had the focus last. */
export class Roving {
  constructor(area, selector) {
    this.area = area;
    this.selector = selector;
    area.addEventListener("keydown", (event) => this.#move(event));
    area.addEventListener("focusin", ({ target }) => target.matches(selector) && this.stopAt(target));
  }

  get #all() {
    return [...this.area.querySelectorAll(this.selector)];
  }

  /** Make one element the tab stop; the first, where that is none of them. */
  stopAt(element) {
    const all = this.#all;
    const stop = all.includes(element) ? element : all[0];
    for (const each of all) each.tabIndex = each === stop ? 0 : -1;
  }

  #move(event) {
    const all = this.#all;
    const at = all.indexOf(event.target);
    if (at < 0 || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    all[Math.min(Math.max(to, 0), all.length - 1)].focus();
  }
}
