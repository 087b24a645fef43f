// What the server tells of its models. Several parts of the page want to know it at once, and it is asked once for them.

import { call } from "./api.js";

let asked = null;

/** Ask what models there are. Throws as `call`. */
export function askModels() {
  asked ??= call("GET", "/models").finally(() => (asked = null));
  return asked;
}

const WORDS = { think: "thinks first", thinking: "thinks first", tools: "calls tools", embeddings: "makes vectors", rerank: "ranks texts" };

/** What a model can do beside chatting, in words. */
export const abilities = (capabilities) => (capabilities ?? []).map((each) => WORDS[each]).filter(Boolean);

/** Whether it writes answers: those that make vectors or rank texts do not. */
export const chats = (capabilities) => !capabilities || capabilities.includes("completion");
