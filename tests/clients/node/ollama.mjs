import assert from "node:assert/strict";
import { test } from "node:test";
import { Ollama } from "ollama";
import { THOUGHT, WORDS, asked, collect, left, root, toolResult, weather } from "./gateway.mjs";

const client = new Ollama({ host: root });
const messages = [{ role: "user", content: "Where?" }];

test("a whole chat", async () => {
  const answer = await client.chat({ model: "words", messages });
  assert.equal(answer.message.content, WORDS);
  assert.equal(answer.done_reason, "stop");
  assert.ok(answer.eval_count > 0 && answer.total_duration > 0);
});

test("a streamed chat", async () => {
  const parts = await collect(await client.chat({ model: "words", messages, stream: true }));
  assert.equal(parts.map((part) => part.message.content).join(""), WORDS);
  assert.deepEqual(parts.map((part) => part.done).filter(Boolean), [true]);
});

test("a thought", async () => {
  const parts = await collect(await client.chat({ model: "thinker", messages, stream: true, think: true }));
  assert.equal(parts.map((part) => part.message.thinking ?? "").join(""), THOUGHT);
});

test("a tool call, and its result", async () => {
  const model = "ollama-tools";
  const tools = [{ type: "function", function: weather }];
  const parts = await collect(await client.chat({ model, messages, tools, stream: true }));
  const { message } = parts.find((part) => part.message.tool_calls);
  assert.deepEqual(message.tool_calls[0].function.arguments, { city: "Paris" });
  const content = parts.map((part) => part.message.content).join("");
  const told = [...messages, { ...message, content }, { role: "tool", tool_name: "weather", content: "sunny" }];
  const answer = await client.chat({ model, messages: told, tools });
  assert.equal(answer.message.content, WORDS);
  assert.equal(await toolResult(model), "sunny");
});

test("an answer of a schema", async () => {
  const format = { type: "object", properties: { city: { type: "string" } } };
  const answer = await client.chat({ model: "place", messages, format });
  assert.equal(JSON.parse(answer.message.content).city, "Paris");
});

test("generate", async () => {
  assert.equal((await client.generate({ model: "words", prompt: "Where?" })).response, WORDS);
  const parts = await collect(await client.generate({ model: "words", prompt: "a", suffix: "b", stream: true }));
  assert.equal(parts.map((part) => part.response).join(""), WORDS);
});

test("models are listed and shown", async () => {
  const { models } = await client.list();
  assert.ok(models.some((model) => model.name === "words:latest"));
  assert.ok((await client.show({ model: "words" })).capabilities.includes("completion"));
  assert.deepEqual((await client.ps()).models, []);
});

test("embeddings", async () => {
  const { embeddings } = await client.embed({ model: "minilm", input: ["one", "two"] });
  assert.deepEqual(embeddings.map((one) => one.length), [384, 384]);
});

test("errors", async () => {
  await assert.rejects(client.chat({ model: "nobody", messages }), { name: "ResponseError", status_code: 404 });
  await assert.rejects(client.chat({ model: "busy", messages }), { name: "ResponseError", status_code: 429 });
  for (const [model, message] of [["failing", /scripted error/], ["cut", /./]]) {
    await assert.rejects(collect(await client.chat({ model, messages, stream: true })), { message });
  }
});

test("a stream given up ends the work for it", async () => {
  const stream = await client.chat({ model: "ollama-endless", messages, stream: true });
  await assert.rejects(async () => {
    for await (const part of stream) if (part.message.content) stream.abort();
  }, { name: "AbortError" });
  await left("ollama-endless");
});

test("what the model was sent", async () => {
  await client.chat({ model: "ollama-fields", messages, options: { temperature: 0.5, num_predict: 7 } });
  const [body] = await asked("ollama-fields");
  assert.equal(body.temperature, 0.5);
  assert.equal(body.max_tokens, 7);
});
