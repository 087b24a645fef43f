import { Ollama } from "ollama";
import { z } from "zod";

import { Library, all, errorOf, families, france, lookUp, question, rules, run, scripted, server } from "./run.mjs";

const ask = (content) => [{ role: "user", content }];
const clientOf = ({ url, key }) => new Ollama({ host: url, headers: { Authorization: `Bearer ${key}` } });
const client = clientOf(server);
const options = { temperature: 0, num_predict: 50 };
const model = "Guide";

// Streamed and whole in turns.
async function loop(family) {
  const client = clientOf(scripted);
  const library = new Library();
  const tools = [{ type: "function", function: lookUp }];
  const messages = [{ role: "system", content: rules }, ...ask(question)];
  const thoughts = [];
  for (;;) {
    let message;
    if (thoughts.length % 2) {
      ({ message } = await client.chat({ model: family, messages, tools }));
    } else {
      const pieces = (await all(client.chat({ model: family, messages, tools, stream: true }))).map((part) => part.message);
      const joined = (field) => pieces.map((piece) => piece[field] ?? "").join("");
      const calls = pieces.flatMap((piece) => piece.tool_calls ?? []);
      message = { role: "assistant", content: joined("content"), thinking: joined("thinking"), tool_calls: calls };
    }
    thoughts.push(message.thinking ?? "");
    messages.push(message);
    if (!message.tool_calls?.length) return { asked: library.asked, thoughts, said: message.content };
    for (const call of message.tool_calls) {
      messages.push({ role: "tool", tool_name: call.function.name, content: library.lookUp(call.function.arguments) });
    }
  }
}

await run({
  whole: () => client.chat({ model, messages: ask(france), options }),
  streamed: () => all(client.chat({ model: "Guide:latest", messages: ask(france), options, stream: true })),
  generated: () => client.generate({ model, prompt: france, options }),
  generated_streamed: () => all(client.generate({ model, prompt: france, options, stream: true })),
  form: async () => {
    const City = z.object({ capital: z.boolean() });
    const reply = await client.chat({ model, messages: ask(france), format: z.toJSONSchema(City), options });
    return City.parse(JSON.parse(reply.message.content));
  },
  vectors: async () => (await client.embed({ model, input: ["One", "Two"] })).embeddings,
  vector: async () => (await client.embeddings({ model, prompt: "One" })).embedding,
  models: async () => (await client.list()).models,
  running: async () => (await client.ps()).models,
  shown: () => client.show({ model: "Guide:latest" }),
  version: () => client.version(),
  missing: async () => {
    const { name, message, status_code } = await errorOf(client.chat({ model: "llama3.2", messages: ask(france) }));
    return { name, message, status_code };
  },
  missing_streamed: async () => {
    const reply = client.chat({ model: "llama3.2", messages: ask(france), stream: true });
    return (await errorOf(all(reply))).message;
  },
  stranger: async () => (await errorOf(clientOf({ ...server, key: "wrong" }).list())).status_code,
  loops: async () => Promise.all(families.map(loop)),
});
