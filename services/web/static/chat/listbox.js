// A list of which one thing is chosen: a button opens it, and the keyboard goes through it as through a select's options.

import { el } from "./dom.js";

// Letters that follow each other faster than this are one word.
const PAUSE = 600;

export class ListBox {
  /** `label` is the list's own name, `onopen()` is called before it opens, and `onchoose(value)` when something is chosen. */
  constructor({ id, label, onopen, onchoose }) {
    this.onopen = onopen;
    this.onchoose = onchoose;
    this.active = null;
    this.typed = "";
    this.list = el("ul", { id, className: "listbox", role: "listbox", tabIndex: 0, hidden: true, "aria-label": label });
    this.button = el("button", { type: "button", "aria-haspopup": "listbox", "aria-expanded": "false", "aria-controls": id });
    this.button.addEventListener("click", () => (this.isOpen ? this.close() : this.open()));
    this.button.addEventListener("keydown", (event) => this.#keyOnButton(event));
    this.list.addEventListener("keydown", (event) => this.#keyOnList(event));
    this.list.addEventListener("click", (event) => this.#choose(event.target.closest("[role=option]")));
    this.list.addEventListener("pointermove", (event) => this.#activate(event.target.closest("[role=option]") ?? this.active));
    for (const each of [this.button, this.list]) each.addEventListener("focusout", (event) => this.#left(event));
    // A press of the button would close the list by taking its focus, and then open it again.
    this.button.addEventListener("mousedown", (event) => this.isOpen && event.preventDefault());
  }

  get isOpen() {
    return !this.list.hidden;
  }

  /** Offer options: {value, name, content, isChosen, isDisabled}; `name` is what letters look for. What is active stays. */
  offer(options) {
    const active = this.active?.dataset.value;
    this.list.replaceChildren(...options.map(({ value, name, content, isChosen, isDisabled }, n) => {
      const option = el("li", { id: `${this.list.id}-${n}`, role: "option", "aria-selected": String(isChosen) }, ...content);
      if (isDisabled) option.setAttribute("aria-disabled", "true");
      Object.assign(option.dataset, { value, name: name.toLowerCase() });
      return option;
    }));
    this.active = null;
    if (this.isOpen) this.#activate(this.#options.find((each) => each.dataset.value === active) ?? this.#chosen);
  }

  open() {
    this.onopen();
    this.list.hidden = false;
    this.button.setAttribute("aria-expanded", "true");
    this.#activate(this.#chosen);
    this.list.focus({ preventScroll: true });
  }

  /** Close it; the focus, where the list had it, goes back to the button. */
  close() {
    if (!this.isOpen) return;
    if (this.list.contains(document.activeElement)) this.button.focus();
    this.list.hidden = true;
    this.button.setAttribute("aria-expanded", "false");
  }

  get #options() {
    return [...this.list.children];
  }

  get #chosen() {
    return this.list.querySelector("[aria-selected=true]") ?? this.list.firstElementChild;
  }

  #activate(option) {
    this.active?.classList.remove("active");
    this.active = option ?? null;
    if (!option) return;
    option.classList.add("active");
    this.list.setAttribute("aria-activedescendant", option.id);
    option.scrollIntoView({ block: "nearest" });
  }

  #choose(option) {
    if (!option || option.getAttribute("aria-disabled") === "true") return;
    const { value } = option.dataset;
    this.close();
    this.onchoose(value);
  }

  #keyOnButton(event) {
    if (this.isOpen || !["ArrowDown", "ArrowUp"].includes(event.key)) return;
    event.preventDefault();
    this.open();
  }

  #keyOnList(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const options = this.#options;
    const at = options.indexOf(this.active);
    const goTo = (n) => this.#activate(options[Math.min(Math.max(n, 0), options.length - 1)]);
    const does = {
      ArrowDown: () => goTo(at + 1), ArrowUp: () => goTo(at - 1), Home: () => goTo(0), End: () => goTo(options.length - 1),
      Enter: () => this.#choose(this.active), Escape: () => this.close(),
    }[event.key];
    if (event.key === "Tab") this.close();
    else if (does) {
      this.typed = "";
      does();
    }
    else if (event.key === " " && !this.typed) this.#choose(this.active);
    else if (event.key.length === 1) this.#look(event.key);
    if (event.key === "Tab") return;
    // What else keys do on the page, as Esc and the slash, they do not do here.
    event.preventDefault();
    event.stopPropagation();
  }

  /** Go to the next option whose name begins with what was typed just now. */
  #look(letter) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => (this.typed = ""), PAUSE);
    this.typed += letter.toLowerCase();
    const options = this.#options;
    // One letter goes on from here, and more than one stay where they still hold.
    const from = options.indexOf(this.active) + (this.typed.length === 1 ? 1 : 0);
    const inTurn = [...options.slice(from), ...options.slice(0, from)];
    const found = inTurn.find((each) => each.dataset.name.startsWith(this.typed));
    if (found) this.#activate(found);
  }

  #left({ relatedTarget }) {
    if (relatedTarget !== this.button && !this.list.contains(relatedTarget)) this.close();
  }
}
