import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, embed, embedMany, generateObject, generateText } from "ai";
import { isStepCount, streamText, tool } from "ai";
import { z } from "zod";
import { THOUGHT, WORDS, asked, baseURL, collect, left, toolResult } from "./gateway.mjs";

const compatible = createOpenAICompatible({
  name: "onion",
  baseURL,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const openai = createOpenAI({ baseURL, apiKey: "unused" });
const prompt = "Where?";
const Place = z.object({ city: z.string(), people: z.number() });

function weather() {
  return tool({
    description: "The weather of a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `sunny in ${city}`,
  });
}

for (const [name, provider] of Object.entries({ compatible, openai })) {
  test(`${name}: a whole text`, async () => {
    const { text, usage, finishReason, warnings } = await generateText({ model: provider("words"), prompt });
    assert.equal(text, WORDS);
    assert.equal(finishReason, "stop");
    assert.ok(usage.inputTokens > 0 && usage.outputTokens > 0);
    assert.deepEqual(warnings ?? [], []);
  });

  test(`${name}: a streamed text`, async () => {
    const result = streamText({ model: provider("words"), prompt });
    const parts = await collect(result.fullStream);
    assert.deepEqual(parts.filter((part) => part.type === "error"), []);
    assert.equal(parts.filter((part) => part.type === "text-delta").map((part) => part.text).join(""), WORDS);
    const finish = parts.findLast((part) => part.type === "finish");
    assert.equal(finish.finishReason, "stop");
    assert.ok(finish.totalUsage.outputTokens > 0);
  });

  test(`${name}: a thought`, async () => {
    const whole = await generateText({ model: provider("thinker"), prompt });
    assert.equal(whole.text, WORDS);
    const streamed = streamText({ model: provider("thinker"), prompt });
    assert.equal(await streamed.text, WORDS);
    if (name === "openai") return; // it shows summaries only, of models that it knows to think
    assert.equal(whole.reasoningText, THOUGHT);
    assert.equal(await streamed.reasoningText, THOUGHT);
  });

  test(`${name}: an object`, async () => {
    const { object } = await generateObject({ model: provider("place"), schema: Place, prompt });
    assert.deepEqual(object, { city: "Paris", people: 2 });
    const output = Output.object({ schema: Place });
    const same = await generateText({ model: provider("place"), output, prompt });
    assert.deepEqual(same.output, { city: "Paris", people: 2 });
    const formats = (await asked("place")).map((body) => body.response_format?.type);
    assert.ok(formats.every((type) => type === "json_schema"), `${formats}`);
  });

  test(`${name}: a streamed object`, async () => {
    const result = streamText({ model: provider("place"), output: Output.object({ schema: Place }), prompt });
    assert.deepEqual((await collect(result.partialOutputStream)).at(-1), { city: "Paris", people: 2 });
  });

  test(`${name}: a tool, whole`, async () => {
    const model = `ai-${name}-tools`;
    const { text, steps } = await generateText({
      model: provider(model),
      tools: { weather: weather() },
      stopWhen: isStepCount(3),
      prompt,
    });
    assert.equal(text, WORDS);
    assert.equal(steps.length, 2);
    assert.equal(steps[0].finishReason, "tool-calls");
    assert.match(await toolResult(model), /sunny in Paris/);
  });

  test(`${name}: two tools at once, streamed`, async () => {
    const model = `ai-${name}-two-tools`;
    const result = streamText({
      model: provider(model),
      tools: { weather: weather(), time: tool({ inputSchema: z.object({}), execute: () => "noon" }) },
      stopWhen: isStepCount(3),
      prompt,
    });
    assert.equal(await result.text, WORDS);
    const [first] = await result.steps;
    assert.deepEqual(first.toolCalls.map((call) => call.toolName), ["weather", "time"]);
    const told = (await asked(model))[1].messages.filter((message) => message.role === "tool");
    assert.deepEqual(told.map((message) => message.tool_call_id), first.toolCalls.map((call) => call.toolCallId));
  });

  test(`${name}: an error before the first word`, async () => {
    const asking = (model) => generateText({ model: provider(model), prompt, maxRetries: 0 });
    await assert.rejects(asking("nobody"), (error) => {
      assert.ok(APICallError.isInstance(error));
      assert.equal(error.statusCode, 404);
      assert.equal(error.isRetryable, false);
      assert.match(error.message, /nobody/);
      return true;
    });
    await assert.rejects(asking("busy"), (error) => error.isRetryable && error.statusCode === 429);
  });

  for (const model of ["cut", "failing"]) {
    test(`${name}: ${model}, an error after the first word`, async () => {
      const result = streamText({ model: provider(model), prompt, maxRetries: 0, onError: () => {} });
      const parts = await collect(result.fullStream);
      assert.ok(parts.some((part) => part.type === "error"), JSON.stringify(parts));
    });
  }

  test(`${name}: given up`, async () => {
    const model = `ai-${name}-endless`;
    const controller = new AbortController();
    const result = streamText({ model: provider(model), prompt, abortSignal: controller.signal, onError: () => {} });
    for await (const part of result.fullStream) if (part.type === "text-delta") controller.abort();
    await left(model);
  });

  test(`${name}: embeddings`, async () => {
    const model = provider.embeddingModel("minilm");
    assert.equal((await embed({ model, value: "one" })).embedding.length, 384);
    assert.equal((await embedMany({ model, values: ["one", "two", "three"] })).embeddings.length, 3);
  });
}

test("a chat of the OpenAI provider", async () => {
  assert.equal((await generateText({ model: openai.chat("words"), prompt })).text, WORDS);
  assert.equal(await streamText({ model: openai.chat("words"), prompt }).text, WORDS);
});

test("a completion model", async () => {
  for (const model of [compatible.completionModel("words"), openai.completion("words")]) {
    assert.equal((await generateText({ model, prompt })).text, WORDS);
    assert.equal(await streamText({ model, prompt }).text, WORDS);
  }
});

test("a conversation goes on from a stored response", async () => {
  const first = await generateText({ model: openai("words"), prompt });
  const { responseId } = first.providerMetadata.openai;
  const options = { openai: { previousResponseId: responseId } };
  await generateText({ model: openai("ai-next"), prompt: "And?", providerOptions: options });
  assert.equal((await asked("ai-next"))[0].messages.length, 3);
});
