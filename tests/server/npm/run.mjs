// What each script here needs: what the test gives it, from standard input, and a report of what the client made of replies.

import { readFileSync } from "node:fs";

export const { server, scripted, families, rules, question, prompt, france, facts } = JSON.parse(readFileSync(0, "utf8"));

export const lookUp = {
  name: "look_up",
  description: "Look up a fact.",
  parameters: {
    type: "object",
    properties: { step: { type: "integer" }, topic: { type: "string" } },
    required: ["step", "topic"],
    additionalProperties: false,
  },
};

// The tool's own side, as the tests' Library: it notes what it was asked, and gives one fact after the other.
export class Library {
  asked = [];

  lookUp({ step, topic }) {
    if (this.asked.length === facts.length) throw new Error("the model asks for more than there is");
    this.asked.push([step, topic]);
    return facts[this.asked.length - 1];
  }
}

// The parts of a stream, or of the promise of one.
export async function all(stream) {
  const parts = [];
  for await (const part of await stream) parts.push(part);
  return parts;
}

// The error that a promise is rejected with.
export async function errorOf(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("there was no error");
}

// Runs one part after the other, and prints what each gives, or how it failed.
export async function run(parts) {
  const report = {};
  for (const [name, part] of Object.entries(parts)) {
    try {
      report[name] = { result: await part() };
    } catch (error) {
      report[name] = { failed: error.stack };
    }
  }
  console.log(JSON.stringify(report));
}
