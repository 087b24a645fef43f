// The models panel: which files there are, which one everybody uses, and fetching another.

import { call, events } from "./api.js";
import { bytes, el, toast } from "./dom.js";

const EVERY = 2000;

/** Show the models; `may(scope)` says what this key may do. */
export function openModels(body, { may }) {
  const files = el("ul", { className: "rows" });
  const arriving = el("div", {});
  const profile = el("select", { id: "switch-profile" });
  const model = el("select", { id: "switch-model" });
  const change = el("button", { className: "primary" }, "Switch for everybody");
  const source = el("input", { id: "pull-source", required: true, spellcheck: false, placeholder: "hf:USER/REPO or a profile", autocomplete: "off", list: "pull-sources" });
  const sources = el("datalist", { id: "pull-sources" });
  const problem = el("p", { className: "error", role: "alert" });
  let known = null;

  const switching = async (event) => {
    event.preventDefault();
    change.disabled = true;
    change.textContent = "Loading…";
    problem.textContent = "";
    try {
      await call("POST", "/models/model", { model: model.value, model_config: profile.value });
      toast(`${profile.value} with ${model.value} answers now`);
    } catch (error) {
      problem.textContent = error.message;
    }
    change.disabled = false;
    change.textContent = "Switch for everybody";
    await reload();
  };
  const pulls = new Map();
  const leaving = new AbortController();
  const pull = async (wanted) => {
    problem.textContent = "";
    try {
      for await (const { data } of events("/models/pull", { source: wanted }, { signal: leaving.signal })) {
        pulls.set(data.file, data);
        drawArriving();
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

  function drawArriving() {
    const all = new Map((known?.arriving ?? []).map((each) => [each.file, each]));
    for (const [file, at] of pulls) all.set(file, at);
    // The bars stay the same elements, so that they move.
    const shown = new Map([...arriving.children].map((node) => [node.dataset.file, node]));
    for (const [file, node] of shown) if (!all.has(file)) node.remove();
    for (const [file, at] of all) {
      const node = shown.get(file) ?? arriving.appendChild(progressRow(file));
      const bar = node.querySelector("progress");
      bar.max = at.size;
      bar.value = at.received;
      node.querySelector(".amount").textContent = `${bytes(at.received)} of ${bytes(at.size)}`;
      const button = node.querySelector("button");
      button.hidden = at.state !== "interrupted" || !may("models:pull");
      button.onclick = () => pull(at.source);
    }
  }

  async function reload() {
    known = await call("GET", "/models");
    files.replaceChildren(...known.models.map((name) => fileRow(name, known)));
    const whole = known.models.filter((name) => !known.details[name].problem && !known.details[name].adapter);
    choose(profile, known.profiles, known.selected);
    choose(model, whole, known.profile_details[profile.value]?.model);
    sources.replaceChildren(...known.profiles.filter((name) => known.profile_details[name].source).map((value) => el("option", { value })));
    if (known.config_problem && problem.textContent !== known.config_problem) problem.textContent = known.config_problem;
    drawArriving();
  }
  profile.addEventListener("change", () => choose(model, null, known.profile_details[profile.value]?.model, true));

  const submitPull = (event) => {
    event.preventDefault();
    pull(source.value.trim());
  };
  body.replaceChildren(
    files,
    arriving,
    problem,
    el("form", { className: "group", hidden: !may("models:switch"), onsubmit: switching },
      el("h3", {}, "Use"), el("label", { for: "switch-profile" }, "Profile"), profile,
      el("label", { for: "switch-model" }, "Model"), model, change),
    el("form", { className: "group", hidden: !may("models:pull"), onsubmit: submitPull },
      el("h3", {}, "Fetch"), el("label", { for: "pull-source" }, "Source"), source, sources,
      el("p", { className: "faint" }, "hf:USER/REPO/FILE.gguf, hf:REPO for its best file, ollama:NAME, or a profile that has a source."),
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
      leaving.abort();
    },
  };
}

/** Offer these values (null: the same as before), and keep what a person has chosen unless `forced`. */
function choose(select, values, wanted, forced = false) {
  const had = select.value;
  if (values && values.join("\n") !== [...select.options].map((option) => option.value).join("\n")) {
    select.replaceChildren(...values.map((value) => el("option", { value }, value)));
    select.value = values.includes(had) ? had : wanted;
  }
  if (forced) select.value = wanted;
}

function fileRow(name, known) {
  const details = known.details[name];
  const facts = details.problem
    ? el("span", { className: "error" }, details.problem)
    : el("span", { className: "faint" }, [details.quantization, details.architecture, `${short(details.weights)} weights`, bytes(details.size),
        details.adapter ? "LoRA adapter" : `context ${details.context_length}`].join(" · "));
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
