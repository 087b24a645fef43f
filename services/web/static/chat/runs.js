// Answers under way, of this conversation and of others: each goes on while another is looked at, over a lost connection,
// and over a reload of the page. The server computes a request of one name once, so that to send it again is to follow it.

import { Refused, Unreachable, call, events, forSession } from "./api.js";
import * as store from "./store.js";

// A request that nobody has followed for so long, in milliseconds, is not sent again: its prompt comes back as a draft.
const FRESH = 10 * 60 * 1000;
const RETRIES = 12;
// Whoever follows one says so once a minute; after so long nobody does.
const LEFT = 3 * 60 * 1000;
// A browser has six connections to a server, and what is not an answer needs some.
export const MOST = 4;
// What the server says while it stops, or its engine does, and what a proxy says in its place: it may be back soon.
const PASSING_CODES = ["stopping", "engine_down"];
const PASSING_STATUSES = [502, 504, 520, 521, 522, 523, 524];

const runs = new Map();
const mine = new Set(readMine());
let told = () => {};

/** `listener(run)` hears of every change of every run; `run.isOver` says that it was the last. */
export function onChange(listener) {
  told = listener;
}

/** The answer that a session is given just now, or that failed and was not dealt with. */
export const runOf = (session) => runs.get(session);

/** All of them. */
export const all = () => [...runs.values()];

/** Whether another may begin. */
export const isFull = () => all().filter((run) => !run.isOver).length >= MOST;

/** Ask in a session; `keep` is how many messages stay where some go, else null; `isFirst`: it begins with this. */
export function ask(session, { prompt, keep = null, isFirst = false, settings = {} }) {
  return begin(session, { name: randomName(), at: Date.now(), isFirst, body: bodyOf(prompt, keep, settings) });
}

/** Go on with a session's last answer, `begun`, and its prompt, which stand behind the first `keep` messages. */
export function goOn(session, { prompt, keep, begun, settings = {} }) {
  const body = { ...settings, continue: true, stream: true, progress: true };
  return begin(session, { name: randomName(), at: Date.now(), isFirst: false, body, goesOn: { prompt, keep, begun } });
}

/** Ask once more for what failed. Under its old name, since it may have been answered all the same. */
export function askAgain(run, settings) {
  if (run.asked.goesOn) {
    dismiss(run);
    return goOn(run.session, { ...run.asked.goesOn, settings });
  }
  const body = bodyOf(run.prompt, run.keep, settings);
  const isTheSame = JSON.stringify(body) === JSON.stringify(run.asked.body);
  dismiss(run);
  const { name, isFirst } = run.asked;
  return begin(run.session, { name: isTheSame ? name : randomName(), at: Date.now(), isFirst, body });
}

const bodyOf = (prompt, keep, settings) => ({ ...settings, prompt, stream: true, progress: true, ...(keep === null ? {} : { keep }) });

/** Go on with what this page had asked before it was loaded anew, and with what was asked in the open session. */
export function resume(session) {
  for (const [owner, name, asked] of pending()) {
    if (asked.failed) show(owner, asked);
    else if ((mine.has(name) || owner === session) && Date.now() - asked.at < FRESH) begin(owner, asked);
  }
}

/** What was asked and nobody follows any more, so that it will not be answered: session, prompt, keep and isFirst of each. */
export function takeLeft() {
  const left = pending().filter(([, , asked]) => Date.now() - asked.at > LEFT);
  for (const [owner, name] of left) store.keep("pending", `${owner}/${name}`, null);
  return left.filter(([, , { goesOn }]) => !goesOn).map(([session, , { body, isFirst }]) => ({ session, prompt: body.prompt, keep: body.keep ?? null, isFirst }));
}

/** What was asked, and is not among the runs: session, name and request of each. */
function pending() {
  return store.namesOf("pending").map((at) => [...at.split("/"), store.read("pending", at, null)])
    .filter(([owner, , asked]) => asked?.body && !runs.has(owner));
}

/** A failed run is dealt with. */
export function dismiss(run) {
  run.forget();
  if (runs.get(run.session) === run) runs.delete(run.session);
}

function begin(session, asked) {
  const run = new Run(session, asked);
  mine.add(asked.name);
  keepMine();
  runs.set(session, run);
  run.remember();
  run.follow();
  return run;
}

function show(session, asked) {
  const run = new Run(session, asked);
  run.error = new Error(asked.failed);
  run.state = "failed";
  runs.set(session, run);
}

class Run {
  constructor(session, asked) {
    this.session = session;
    this.asked = asked;
    this.prompt = asked.goesOn?.prompt ?? asked.body.prompt;
    this.keep = asked.goesOn?.keep ?? asked.body.keep ?? null;
    this.begun = asked.goesOn?.begun ?? "";
    this.text = "";
    this.reading = null;
    this.thoughtSince = null;
    this.thoughtSeconds = 0;
    this.thoughts = "";
    this.place = null;
    this.state = "waiting";
    this.stopping = false;
    this.isStopped = false;
    this.summary = null;
    this.error = null;
    this.abort = new AbortController();
  }

  get isOver() {
    return this.state === "done" || this.state === "failed";
  }

  get isFirst() {
    return Boolean(this.asked.isFirst);
  }

  /** Whether it was stopped before its first word, so that nothing is stored. */
  get isNothing() {
    return this.state === "done" && this.summary.finish_reason === "cancelled" && !this.summary.result && !this.begun;
  }

  async follow() {
    for (let attempt = 0; !this.isOver; attempt += 1) {
      const had = this.text.length + this.thoughts.length;
      try {
        await this.#read();
      } catch (error) {
        // Where something has come since, the way is not closed.
        if (this.text.length + this.thoughts.length > had) attempt = 0;
        this.#fail(error, attempt);
      }
      told(this);
      if (!this.isOver) await sleep(Math.min(500 * 2 ** attempt, 8000));
    }
  }

  /** End it where it is; the server keeps what has been said. */
  async stop() {
    this.stopping = true;
    told(this);
    for (let tries = 0; tries < 5 && !this.isOver; tries += 1) {
      const reply = await call("POST", `/answer/${this.session}/stop`).catch(() => null);
      if (reply?.stopped) {
        this.isStopped = true;
        return;
      }
      await sleep(200);
    }
    // It never began, or cannot be reached.
    this.abort.abort();
  }

  /** Keep what was asked until it is answered, so that it outlives the page. */
  remember() {
    store.keep("pending", `${this.session}/${this.asked.name}`, this.asked);
  }

  forget() {
    store.keep("pending", `${this.session}/${this.asked.name}`, null);
    mine.delete(this.asked.name);
    keepMine();
  }

  async #read() {
    const options = { headers: { "Idempotency-Key": this.asked.name }, signal: this.abort.signal };
    let text = "";
    let thoughts = "";
    for await (const { data, comment } of events("/answer", forSession(this.session, this.asked.body), options)) {
      if (data?.progress) this.reading = data.progress;
      if (comment?.startsWith("queued ")) this.place = Number(comment.slice(7));
      else if (data?.queue_position) this.place = data.queue_position;
      if (data && "chunk" in data && data.chunk) {
        // Followed anew, it is told from the beginning.
        text += data.chunk;
        this.text = this.begun + text;
        this.place = null;
        this.#endThoughts();
        this.state = "answering";
      } else if (data && "result" in data) {
        this.text = data.result;
        this.thoughts = data.reasoning ?? "";
        this.#endThoughts();
        this.summary = { ...data, ...(this.thoughtSeconds ? { thought_seconds: this.thoughtSeconds } : {}) };
      } else if (data?.reasoning) {
        this.thoughts = thoughts += data.reasoning;
        this.thoughtSince ??= Date.now();
        this.place = null;
        this.state = "answering";
      }
      if (Date.now() - this.asked.at > FRESH / 10) {
        this.asked.at = Date.now();
        this.remember();
      }
      told(this);
    }
    if (!this.summary) throw new Unreachable();
    this.#finish();
  }

  /** The first word has come: so long the model has thought. */
  #endThoughts() {
    if (this.thoughtSince !== null) this.thoughtSeconds ||= Math.max(1, Math.round((Date.now() - this.thoughtSince) / 1000));
  }

  #fail(error, attempt) {
    const passes = error instanceof Unreachable || (error instanceof Refused &&
      (PASSING_CODES.includes(error.code) || (!error.code && PASSING_STATUSES.includes(error.status))));
    if (passes && attempt < RETRIES && (!this.stopping || this.isStopped)) {
      this.state = "reconnecting";
    } else if ((error.name === "AbortError" || this.stopping) && !this.text) {
      this.summary = { result: "", finish_reason: "cancelled" };
      this.#finish();
    } else {
      // What is half said is not thrown away: to try again is to follow it, or what came of it.
      this.error = this.stopping ? new Error("The server does not answer, so the answer could not be stopped.") : error;
      this.state = "failed";
      this.asked = { ...this.asked, failed: this.error.message };
      this.remember();
    }
  }

  #finish() {
    this.state = "done";
    this.forget();
    if (runs.get(this.session) === this) runs.delete(this.session);
  }
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The names of what this page has asked, over its reloads: another page of the browser follows its own. */
function readMine() {
  try {
    return JSON.parse(sessionStorage.getItem("hearth.mine")) ?? [];
  } catch {
    return [];
  }
}

function keepMine() {
  try {
    sessionStorage.setItem("hearth.mine", JSON.stringify([...mine]));
  } catch {
    // Then a reload shows what is open, and no other.
  }
}

/** A name that nobody guesses. `crypto.randomUUID` is not there over plain HTTP from another machine. */
function randomName() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
