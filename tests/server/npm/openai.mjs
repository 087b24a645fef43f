import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

import { Library, all, errorOf, families, france, lookUp, prompt, question, rules, run, scripted, server } from "./run.mjs";

const ask = (content) => [{ role: "user", content }];
const clientOf = ({ url, key }) => new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const client = clientOf(server);
const model = "Guide";
const City = z.object({ name: z.string().max(12), people: z.number().int().min(0).max(99) });

// The package's own loop.
async function loop(family, stream) {
  const library = new Library();
  const runner = clientOf(scripted).chat.completions.runTools(
    {
      model: family,
      messages: [{ role: "system", content: rules }, ...ask(question)],
      tools: [
        {
          type: "function",
          function: { ...lookUp, parse: JSON.parse, function: (asked) => library.lookUp(asked) },
        },
      ],
      stream,
    },
    { maxChatCompletions: 20 },
  );
  const said = await runner.finalContent();
  return { asked: library.asked, said, ends: runner.allChatCompletions().map((reply) => reply.choices[0].finish_reason) };
}

await run({
  whole: () => client.chat.completions.create({ model, messages: ask(france) }),
  streamed: () =>
    all(
      client.chat.completions.create({
        model,
        messages: ask(france),
        stream: true,
        stream_options: { include_usage: true },
      }),
    ),
  gathered: async () => {
    const stream = client.chat.completions.stream({ model, messages: ask(france) });
    let text = "";
    stream.on("content", (piece) => (text += piece));
    const reply = await stream.finalChatCompletion();
    return { text, reply };
  },
  completed: () => client.completions.create({ model, prompt, temperature: 0, max_tokens: 40, logprobs: 1 }),
  completed_streamed: () => all(client.completions.create({ model, prompt, temperature: 0, max_tokens: 40, stream: true })),
  models: () => all(client.models.list()),
  retrieved: () => client.models.retrieve("guide.gguf"),
  // In base64, unless told otherwise; the package decodes it.
  vectors: async () =>
    (await client.embeddings.create({ model, input: ["One", "Two"] })).data.map((entry) => entry.embedding),
  form: async () => {
    const response_format = zodResponseFormat(City, "city");
    const reply = await client.chat.completions.parse({ model, messages: ask(france), response_format, max_tokens: 200 });
    return reply.choices[0].message.parsed;
  },
  missing: async () => {
    const error = await errorOf(client.chat.completions.create({ model: "gpt-4o", messages: ask(france) }));
    const { message, status, code, param, requestID } = error;
    return { is_known: error instanceof OpenAI.NotFoundError, message, status, code, param, request_id: requestID };
  },
  missing_streamed: async () => {
    const reply = client.chat.completions.create({ model: "gpt-4o", messages: ask(france), stream: true });
    return (await errorOf(reply)).message;
  },
  stranger: async () =>
    (await errorOf(clientOf({ ...server, key: "wrong" }).models.list())) instanceof OpenAI.AuthenticationError,
  loops: () => Promise.all(families.map((family) => loop(family, false))),
  loops_streamed: () => Promise.all(families.map((family) => loop(family, true))),
});
