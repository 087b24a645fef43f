// Suggested models: the catalog, and one button each that fetches a model, makes a profile of it and selects that.

import { events } from "./api.js";
import { bytes, el, toast } from "./dom.js";
import { abilities } from "./known.js";

// So many are shown at first.
const MOST = 5;

/** What this page is doing with entries, by name: {state, at, error}. It goes on while the panel is closed. */
const going = new Map();
let changed = () => {};

/** The rows of the catalog; `may(scope)` is as for the panel, `use(body)` has everybody use a model, and says so. */
export function catalogRows({ may, use, onchange }) {
  const best = el("ul", { className: "rows" });
  const others = el("ul", { className: "rows" });
  const fitting = el("p", { className: "faint" });
  const more = el("details", { className: "more", hidden: true }, el("summary", {}, "More"), others);
  const element = el("div", { className: "suggested" }, fitting, best, more);
  const rows = new Map();
  changed = onchange;

  const start = async (entry, isHere) => {
    try {
      if (!isHere) await fetchModel(entry);
      if (may("models:switch")) {
        going.set(entry.name, { state: "loading" });
        changed();
        await use({ model: entry.file }, entry.name);
      } else {
        toast(`${entry.name} is there and whole`);
      }
      going.delete(entry.name);
    } catch (error) {
      going.set(entry.name, { state: "failed", error });
      toast(`${entry.name}: ${error.message}`, { isError: true });
    }
    changed();
  };

  return {
    element,
    /** Show what the server says, and what is arriving by file. Rows stay the same elements at the same place, so that a button keeps the focus. */
    draw(known, arriving) {
      if (!rows.size) {
        const [first, rest] = suggested(known.catalog);
        for (const entry of known.catalog) rows.set(entry.name, new Row(entry));
        best.append(...first.map(({ name }) => rows.get(name).element));
        others.append(...rest.map(({ name }) => rows.get(name).element));
        more.hidden = !rest.length;
        // What is on its way there is to be seen.
        more.open = !first.length || rest.some(({ name, file }) => going.has(name) || arriving.has(file));
        fitting.textContent = first.length ? "The best for the memory that is free on the server now, the largest first."
          : "None of these fits into the memory that is free on the server now.";
      }
      for (const entry of known.catalog) {
        const isUsed = known.profile_details[known.selected]?.model === entry.file;
        const mayStart = entry.here ? may("models:switch") : may("models:pull");
        rows.get(entry.name).draw(entry, { isUsed, mayStart, mayUse: may("models:switch"), at: arriving.get(entry.file), start });
      }
    },
    close: () => (changed = () => {}),
  };
}

async function fetchModel(entry) {
  going.set(entry.name, { state: "fetching" });
  changed();
  for await (const { data } of events("/models/pull", { source: entry.source })) {
    going.set(entry.name, { state: "fetching", at: data });
    changed();
  }
}

/** The catalog in two: the largest that fit, the largest first, and all others. */
function suggested(catalog) {
  const first = catalog.filter((entry) => entry.fits).slice(-MOST).reverse();
  return [first, catalog.filter((entry) => !first.includes(entry))];
}

class Row {
  constructor(entry) {
    this.badges = el("span", { className: "badges" });
    this.bar = el("progress", { "aria-label": `How much of ${entry.name} has arrived` });
    this.amount = el("span", { className: "faint" });
    this.problem = el("span", { className: "error" });
    this.button = el("button", { type: "button" });
    const facts = [bytes(entry.size), entry.licence, ...abilities(entry.can), `for a machine with ${entry.machine_gb} GB`].join(" · ");
    this.element = el("li", { tabIndex: -1 }, el("strong", {}, entry.name), this.badges, el("span", { className: "faint" }, facts),
      el("span", { className: "about" }, entry.about), this.bar, this.amount, this.problem, this.button);
  }

  draw(entry, { isUsed, mayStart, mayUse, at, start }) {
    const own = going.get(entry.name);
    const isBusy = own && own.state !== "failed";
    const arrives = own?.at ?? (entry.here ? null : at);
    const fit = entry.best ? "the best that fits" : entry.fits ? "fits" : `needs ${bytes(entry.needs_bytes)} of free memory`;
    const badges = [isUsed ? "in use" : entry.here ? "here" : null, fit].filter(Boolean);
    if (this.shown !== badges.join()) {
      this.shown = badges.join();
      this.badges.replaceChildren(...badges.map((text) => el("span", { className: text === fit && !entry.fits ? "badge no" : "badge" }, text)));
    }
    showProgress(this.bar, this.amount, isBusy && own.state === "loading" ? null : arrives);
    this.problem.textContent = own?.state === "failed" ? own.error.message : "";
    const words = isBusy ? { fetching: "Fetching…", loading: "Loading…" }[own.state]
      : entry.here ? "Use" : arrives?.state === "interrupted" ? "Go on" : mayUse ? "Fetch and use" : "Fetch";
    const isHidden = !mayStart || (isUsed && entry.here && !isBusy);
    // Whoever has pressed it stays where it was.
    if (isHidden && document.activeElement === this.button) this.element.focus();
    this.button.hidden = isHidden;
    this.button.setAttribute("aria-disabled", String(Boolean(isBusy)));
    this.button.textContent = words;
    this.button.setAttribute("aria-label", `${words} ${entry.name}`);
    this.button.onclick = () => isBusy || start(entry, entry.here);
  }
}

/** Show how much has arrived in a bar and in words; null hides both. Where the size is not known, the bar only moves. */
export function showProgress(bar, amount, at) {
  bar.hidden = amount.hidden = !at;
  if (!at) return;
  if (at.size) {
    bar.max = at.size;
    bar.value = at.received;
  } else {
    bar.removeAttribute("value");
  }
  amount.textContent = at.size ? `${bytes(at.received)} of ${bytes(at.size)}` : bytes(at.received);
}
