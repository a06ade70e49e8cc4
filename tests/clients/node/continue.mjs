import assert from "node:assert/strict";
import { test } from "node:test";
import { constructLlmApi } from "@continuedev/openai-adapters";
import { WORDS, baseURL, collect, left, root, weather } from "./gateway.mjs";

const { signal } = new AbortController();
const messages = [{ role: "user", content: "Where?" }];
const of = (provider, apiBase) => constructLlmApi({ provider, apiKey: "unused", apiBase });
const client = of("openai", `${baseURL}/`);

test("a whole chat", async () => {
  const answer = await client.chatCompletionNonStream({ model: "words", messages, stream: false }, signal);
  assert.equal(answer.choices[0].message.content, WORDS);
});

test("a streamed chat, with usage at its end", async () => {
  const chunks = await collect(client.chatCompletionStream({ model: "words", messages, stream: true }, signal));
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""), WORDS);
  assert.ok(chunks.at(-1).usage.total_tokens > 0);
});

test("a tool call", async () => {
  const tools = [{ type: "function", function: weather }];
  const chunks = await collect(client.chatCompletionStream({ model: "call", messages, tools, stream: true }, signal));
  const calls = chunks.flatMap((chunk) => chunk.choices[0]?.delta.tool_calls ?? []);
  assert.equal(calls.map((call) => call.function.arguments).join(""), '{"city":"Paris"}');
});

// Without the slash it leaves the last part of the base URL out.
for (const base of [`${baseURL}/`, baseURL]) {
  test(`fill in the middle, ${new URL(base).pathname}`, async () => {
    const body = { model: "words", prompt: "def f(", suffix: "  return 1", stream: true, stop: ["\n\n"] };
    const chunks = await collect(of("openai", base).fimStream(body, signal));
    assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join(""), WORDS);
  });

  test(`rerank, ${new URL(base).pathname}`, async () => {
    const documents = ["Bread is baked.", "Paris is the capital of France."];
    const ask = { model: "minilm", query: "capital of France", documents, top_k: 2 };
    const answer = await of("openai", base).rerank(ask);
    assert.equal((answer.data ?? answer.results)[0].index, 1);
    assert.ok((answer.data ?? answer.results)[0].relevance_score > 0.5);
  });
}

test("a completion", async () => {
  const body = { model: "words", prompt: "<PRE>a<SUF>b<MID>", stream: true, stop: ["1", "2", "3", "4", "5", "6"] };
  const chunks = await collect(client.completionStream(body, signal));
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), WORDS);
});

test("embeddings, a batch of 128", async () => {
  const input = Array.from({ length: 128 }, (_, number) => `text ${number}`);
  const { data } = await client.embed({ model: "minilm", input });
  assert.deepEqual([data.length, data[127].embedding.length], [128, 384]);
});

test("models", async () => {
  assert.ok((await client.list()).some((model) => model.id === "words"));
});

test("an error is told", async () => {
  const asking = (model) => collect(client.chatCompletionStream({ model, messages, stream: true }, signal));
  await assert.rejects(asking("nobody"), { status: 404 });
  await assert.rejects(asking("failing"), /scripted error/);
  const body = { model: "failing", prompt: "a", suffix: "b", stream: true };
  await assert.rejects(collect(client.fimStream(body, signal)), /scripted error/);
});

const others = { ollama: root, "llama.cpp": root, lmstudio: root, vllm: `${baseURL}/` };
for (const [provider, base] of Object.entries(others)) {
  test(`as ${provider}`, async () => {
    const body = { model: "words", messages, stream: true };
    const chunks = await collect(of(provider, base).chatCompletionStream(body, signal));
    assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""), WORDS);
  });
}

test("as Anthropic", async () => {
  const anthropic = of("anthropic", `${baseURL}/`);
  const ask = { model: "words", messages, max_tokens: 50, stream: true };
  const chunks = await collect(anthropic.chatCompletionStream(ask, signal));
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""), WORDS);
});

test("as Cohere, which reranks", async () => {
  const documents = ["Bread is baked.", "Paris is the capital of France."];
  const ask = { model: "minilm", query: "capital of France", documents };
  const { data } = await of("cohere", `${baseURL}/`).rerank(ask);
  assert.deepEqual(data.map((one) => one.index), [1, 0]);
});

test("given up", async () => {
  const controller = new AbortController();
  const body = { model: "continue-endless", messages, stream: true };
  const heard = [];
  for await (const chunk of client.chatCompletionStream(body, controller.signal)) {
    heard.push(chunk);
    if (chunk.choices[0].delta.content) controller.abort();
  }
  assert.ok(heard.length < 100);
  await left("continue-endless");
});
