// The model at the top of a conversation: a button with its name, which opens the list of those that can answer.

import { bytes, el } from "./dom.js";
import { abilities, askModels, chats } from "./known.js";
import { ListBox } from "./listbox.js";
import { keepSettings, settingsOf } from "./settings.js";

export class Picker {
  /** It stands in `place`; the choice is of the conversation `session()`, and `onchange` is called when it changes. */
  constructor(place, { session, onchange }) {
    this.place = place;
    this.session = session;
    this.onchange = onchange;
    this.known = null;
    this.name = el("span", { className: "name" });
    this.box = new ListBox({ id: "model-list", label: "Models", onopen: () => this.refresh(), onchoose: (value) => this.#choose(value) });
    this.box.button.id = "model";
    this.box.button.className = "chip";
    this.box.button.append(this.name);
    place.append(this.box.button, this.box.list);
    place.hidden = true;
  }

  /** Look anew what models there are. */
  async refresh() {
    this.known = await askModels().catch(() => this.known);
    this.draw();
  }

  /** Show which model answers the open conversation. */
  draw() {
    const { known } = this;
    this.place.hidden = !known;
    if (!known) return;
    const chosen = settingsOf(this.session()).model ?? "";
    const isGone = chosen !== "" && !known.profiles.includes(chosen);
    const name = shortName(chosen || known.selected) || "No model";
    const drawn = JSON.stringify([chosen, known.selected, known.profile_details, Object.entries(known.details).map(([file, { size }]) => [file, size])]);
    if (this.drawn === drawn) return;
    this.drawn = drawn;
    this.name.textContent = isGone ? `${name} (gone)` : name;
    const { button } = this.box;
    button.classList.toggle("changed", chosen !== "");
    button.title = chosen || known.selected;
    button.setAttribute("aria-label", `Model: ${this.name.textContent}${chosen ? "" : ", the server's choice"}`);
    this.box.offer(offered(known, chosen, isGone));
  }

  #choose(value) {
    const settings = { ...settingsOf(this.session()) };
    if (value) settings.model = value;
    else delete settings.model;
    keepSettings(this.session(), settings);
    this.onchange();
  }
}

/** The options of the list: the server's choice, the profiles that can answer, and those whose file is missing. */
function offered(known, chosen, isGone) {
  const isHere = (name) => Boolean(known.details[known.profile_details[name].model]?.size);
  const names = known.profiles.filter((name) => chats(known.profile_details[name].capabilities) || name === chosen);
  const inOrder = [...names.filter(isHere), ...names.filter((name) => !isHere(name))];
  const server = {
    value: "", name: "The server's choice", isChosen: chosen === "",
    content: [el("strong", {}, "The server's choice"), facts(known.selected ? `${known.selected}, for everybody who chooses no other` : "There is none")],
  };
  const gone = {
    value: chosen, name: chosen, isChosen: true, isDisabled: true,
    content: [el("strong", {}, chosen), facts("The server has no such model any more. Choose another.")],
  };
  return [server, ...inOrder.map((name) => option(name, known, chosen, isHere(name))), ...(isGone ? [gone] : [])];
}

function option(name, known, chosen, isHere) {
  const { model, capabilities } = known.profile_details[name];
  const badge = name === known.selected ? el("span", { className: "badge" }, "server's choice") : null;
  const can = [...abilities(capabilities), "reads files"].join(" · ");
  const lines = isHere ? [facts(`${model} · ${bytes(known.details[model].size)}`), facts(can)]
    : [facts(known.details[model] ? `Its file ${model} is damaged.` : `Its file ${model} is not on the server.`)];
  return { value: name, name, isChosen: name === chosen, isDisabled: !isHere, content: [el("strong", {}, name), badge, ...lines] };
}

const facts = (words) => el("span", { className: "faint" }, words);

/** A name without the file's ending and without how its weights are stored. */
const shortName = (name) => name.replace(/\.gguf$/i, "").replace(/[-._](UD-)?(I?Q\d\w*|BF16|F16|F32|MXFP4)$/i, "");
