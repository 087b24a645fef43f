// The status panel: what the server is at, drawn as it happens.

import { call } from "./api.js";
import { bytes, el } from "./dom.js";

const EVERY = 1000;
const POINTS = 120;
const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [300, 64];

const rate = (now, before, name) => (now.totals[name] - before.totals[name]) / Math.max(now.time - before.time, 0.001);
const count = (n) => String(n);
const perSecond = (n) => `${n < 10 ? n.toFixed(1) : Math.round(n)} tokens/s`;

// Title, what a point's values are, given this second's status and the one before, how a value is told, the lines' names, and
// what of the status it needs, which the server tells the master key only.
const PLOTS = [
  ["Writing and reading", (now, before) => [rate(now, before, "completion_tokens"), rate(now, before, "prompt_tokens")], perSecond, ["written", "read"], "totals"],
  ["Answers", (now) => [now.answers.running, now.answers.waiting], count, ["under way", "in the queue"]],
  ["First token", firstToken, (n) => `${n < 1 ? `${Math.round(n * 1000)} ms` : `${n.toFixed(1)} s`}`, ["waited for"], "totals"],
  ["Memory", (now) => [now.memory.used], bytes, ["of the server"], "memory"],
  ["Kept conversations", (now) => [now.states.ram.used, now.states.disk.used], bytes, ["in memory", "on disk"], "states"],
];

/** For how long the last answers' first token was waited for; as before where none has come since. */
function firstToken(now, before, last) {
  const came = now.totals.first_tokens - before.totals.first_tokens;
  if (came <= 0) return last ?? [now.totals.first_tokens ? now.totals.first_token_seconds / now.totals.first_tokens : 0];
  return [(now.totals.first_token_seconds - before.totals.first_token_seconds) / came];
}

/** Show the status until it is closed. */
export function openStatus(body, { isMaster }) {
  const plots = PLOTS.filter(([, , , , needs]) => isMaster || !needs).map((plot) => new Plot(...plot));
  const facts = el("p", { className: "faint" });
  const problem = el("p", { className: "error", role: "alert" });
  body.replaceChildren(facts, problem, ...plots.map((plot) => plot.element));
  let before = null;
  let timer;
  let isClosed = false;
  const look = async () => {
    try {
      const now = await call("GET", "/status");
      if (isClosed) return;
      // The server has started anew.
      if (before?.totals && now.totals.answers < before.totals.answers) before = null;
      if (problem.textContent) problem.textContent = "";
      facts.textContent = describe(now);
      for (const plot of plots.filter((each) => !each.needs || now[each.needs])) plot.add(now, before ?? now);
      before = now;
    } catch (error) {
      if (problem.textContent !== error.message) problem.textContent = error.message;
    }
    if (!isClosed) timer = setTimeout(look, EVERY);
  };
  look();
  return {
    close: () => {
      isClosed = true;
      clearTimeout(timer);
    },
  };
}

/** What the engine's memory is for, and how much of it was promised to models and kept conversations. */
function describeMemory({ engine, weights, contexts, states, other, promised }) {
  const kinds = [[weights, "weights"], [contexts, "contexts"], [states, "kept conversations"], [other, "else"]];
  const parts = kinds.map(([n, kind]) => `${bytes(n)} ${kind}`).join(", ");
  return ` The engine has ${bytes(engine)} of memory and may have ${bytes(promised)}: ${parts}.`;
}

function describe({ status, answers, totals, models, memory }) {
  const loaded = models.map(({ file, size }) => `${file} (${bytes(size)})`).join(", ") || "no model";
  const shared = totals ? totals.prompt_tokens + totals.cached_tokens : 0;
  const cached = shared ? `${Math.round((100 * totals.cached_tokens) / shared)} % of all prompt tokens came from the cache. ` : "";
  return `${status[0].toUpperCase()}${status.slice(1)}, ${answers.slots} answers at once. ${totals ? `${totals.answers} answers so far. ` : ""}${cached}In memory: ${loaded}.${memory ? describeMemory(memory) : ""}`;
}

class Plot {
  constructor(title, values, told, names, needs) {
    Object.assign(this, { values, told, names, needs, points: [] });
    this.now = el("span", { className: "faint" });
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("role", "img");
    this.svg.setAttribute("aria-label", title);
    this.lines = names.map((_, n) => {
      const line = document.createElementNS(SVG, "polyline");
      line.setAttribute("class", `line line-${n}`);
      return this.svg.appendChild(line);
    });
    this.top = el("span", { className: "top faint" });
    this.element = el("figure", { className: "plot" },
      el("figcaption", {}, el("strong", {}, title), this.now), el("div", { className: "frame" }, this.svg, this.top));
  }

  add(now, before) {
    const point = this.values(now, before, this.points.at(-1));
    this.points = [...this.points, point].slice(-POINTS);
    const highest = Math.max(...this.points.flat(), 0);
    this.lines.forEach((line, n) => line.setAttribute("points", this.points.map((each, at) => {
      const x = WIDTH - ((this.points.length - 1 - at) * WIDTH) / (POINTS - 1);
      const y = HEIGHT - 2 - (highest ? (each[n] / highest) * (HEIGHT - 6) : 0);
      return `${x.toFixed(1)},${y.toFixed(1)}`;
    }).join(" ")));
    this.top.textContent = this.told(highest);
    this.now.textContent = this.names.map((name, n) => `${this.told(point[n])} ${name}`).join(", ");
    this.svg.setAttribute("aria-label", `${this.element.querySelector("strong").textContent}: ${this.now.textContent}`);
  }
}
