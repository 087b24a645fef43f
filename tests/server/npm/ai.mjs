import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, embedMany, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

import { Library, all, errorOf, families, france, lookUp, question, rules, run, scripted, server } from "./run.mjs";

const warnings = [];
globalThis.AI_SDK_LOG_WARNINGS = (told) => warnings.push(...told.warnings);

const providerOf = ({ url, key }) =>
  createOpenAICompatible({
    name: "hearth",
    baseURL: `${url}/v1`,
    apiKey: key,
    includeUsage: true,
    supportsStructuredOutputs: true,
  });
const provider = providerOf(server);
const model = provider("Guide");
const settings = { model, prompt: france, maxRetries: 0 };
const City = z.object({ name: z.string().max(12), people: z.number().int().min(0).max(99) });
const output = Output.object({ schema: City });

// The package's own loop.
async function loop(family, ask) {
  const library = new Library();
  const found = await ask({
    model: providerOf(scripted)(family),
    system: rules,
    prompt: question,
    tools: {
      look_up: tool({
        description: lookUp.description,
        inputSchema: jsonSchema(lookUp.parameters),
        execute: (asked) => library.lookUp(asked),
      }),
    },
    stopWhen: stepCountIs(20),
    maxRetries: 0,
  });
  const steps = await found.steps;
  return {
    asked: library.asked,
    said: await found.text,
    thoughts: steps.map((step) => step.reasoningText ?? ""),
    ends: steps.map((step) => step.finishReason),
  };
}

await run({
  whole: async () => {
    const { text, finishReason, usage, response } = await generateText(settings);
    return { text, finishReason, usage, model: response.modelId };
  },
  streamed: async () => {
    const stream = streamText(settings);
    const pieces = await all(stream.textStream);
    return { pieces, finishReason: await stream.finishReason, usage: await stream.usage };
  },
  vectors: async () => {
    const { embeddings, usage } = await embedMany({ model: provider.embeddingModel("Guide"), values: ["One", "Two"] });
    return { embeddings, usage };
  },
  form: async () => (await generateText({ ...settings, output, maxOutputTokens: 200 })).output,
  form_streamed: async () => {
    const stream = streamText({ ...settings, output, maxOutputTokens: 200 });
    return { partial: await all(stream.partialOutputStream), whole: await stream.output };
  },
  missing: async () => {
    const error = await errorOf(generateText({ ...settings, model: provider("gpt-4o") }));
    const { message, statusCode, isRetryable } = error;
    return { is_known: APICallError.isInstance(error), message, status: statusCode, isRetryable };
  },
  missing_streamed: async () => {
    const errors = [];
    const onError = ({ error }) => errors.push(error.message);
    await streamText({ ...settings, model: provider("gpt-4o"), onError }).consumeStream();
    return errors;
  },
  stranger: async () => {
    const model = providerOf({ ...server, key: "wrong" })("Guide");
    return (await errorOf(generateText({ ...settings, model }))).statusCode;
  },
  loops: () => Promise.all(families.map((family) => loop(family, generateText))),
  loops_streamed: () => Promise.all(families.map((family) => loop(family, streamText))),
  warnings: () => warnings,
});
