import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { ResponsesToolRunner, runnerFunction } from "openai/helpers/responses-tool-runner";
import { zodFunction, zodResponseFormat, zodResponsesFunction, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { THOUGHT, WORDS, asked, baseURL, began, collect, left, root, toolResult, weather } from "./gateway.mjs";

const client = new OpenAI({ baseURL, apiKey: "unused", maxRetries: 0 });
const messages = [{ role: "user", content: "Where?" }];
const Place = z.object({ city: z.string(), people: z.number() });

test("a whole chat", async () => {
  const answer = await client.chat.completions.create({ model: "words", messages });
  assert.equal(answer.choices[0].message.content, WORDS);
  assert.equal(answer.choices[0].message.refusal, null);
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  assert.ok(answer._request_id);
});

test("a streamed chat", async () => {
  const stream = await client.chat.completions.create({
    model: "words",
    messages,
    stream: true,
    stream_options: { include_usage: true },
  });
  const chunks = await collect(stream);
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""), WORDS);
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  assert.equal(chunks.filter((chunk) => chunk.choices[0]?.finish_reason).length, 1);
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.ok(chunks.at(-1).usage.total_tokens > 0);
});

test("no usage where it was not asked for", async () => {
  const chunks = await collect(await client.chat.completions.create({ model: "words", messages, stream: true }));
  assert.ok(chunks.every((chunk) => chunk.choices.length === 1 && !chunk.usage));
});

test("two choices", async () => {
  const stream = client.chat.completions.stream({ model: "words", messages, n: 2 });
  const { choices } = await stream.finalChatCompletion();
  assert.deepEqual(choices.map((choice) => choice.message.content), [WORDS, WORDS]);
});

test("the stream helper", async () => {
  const heard = [];
  const stream = client.chat.completions.stream({ model: "words", messages, stream_options: { include_usage: true } });
  stream.on("content", (delta) => heard.push(delta));
  assert.equal(await stream.finalContent(), WORDS);
  assert.equal(heard.join(""), WORDS);
  assert.ok((await stream.totalUsage()).completion_tokens > 0);
});

test("the stream helper with a tool call", async () => {
  const tools = [{ type: "function", function: { ...weather, strict: true } }];
  const stream = client.chat.completions.stream({ model: "call", messages, tools });
  const done = [];
  stream.on("tool_calls.function.arguments.done", (call) => done.push(call));
  const answer = await stream.finalChatCompletion();
  assert.equal(answer.choices[0].finish_reason, "tool_calls");
  assert.deepEqual(answer.choices[0].message.tool_calls[0].function.parsed_arguments, { city: "Paris" });
  assert.equal(done[0].name, "weather");
});

test("a thought is not lost", async () => {
  const answer = await client.chat.completions.create({ model: "thinker", messages });
  assert.equal(answer.choices[0].message.reasoning_content, THOUGHT);
});

for (const stream of [false, true]) {
  const model = stream ? "openai-run-tools-streamed" : "openai-run-tools";
  test(`${model}: it is called, and told back`, async () => {
    const tool = zodFunction({
      name: "weather",
      parameters: z.object({ city: z.string() }),
      function: ({ city }) => `sunny in ${city}`,
    });
    const runner = client.chat.completions.runTools({ model, messages, tools: [tool], stream });
    assert.equal(await runner.finalContent(), WORDS);
    assert.equal(await toolResult(model), "sunny in Paris");
    assert.equal((await asked(model))[0].tools[0].function.strict, true);
  });
}

test("an answer parsed with zod", async () => {
  const response_format = zodResponseFormat(Place, "place");
  const answer = await client.chat.completions.parse({ model: "place", messages, response_format });
  assert.deepEqual(answer.choices[0].message.parsed, { city: "Paris", people: 2 });
  assert.equal((await asked("place"))[0].response_format.json_schema.name, "place");
});

test("an answer cut short is not parsed", async () => {
  const response_format = zodResponseFormat(Place, "place");
  await assert.rejects(client.chat.completions.parse({ model: "short", messages, response_format }), {
    name: "Error",
    message: /length limit/,
  });
});

test("a whole response", async () => {
  const response = await client.responses.create({ model: "words", input: "Where?", instructions: "Be brief." });
  assert.equal(response.output_text, WORDS);
  assert.equal(response.status, "completed");
  assert.ok(response.usage.output_tokens > 0);
  const again = await client.responses.retrieve(response.id);
  assert.equal(again.output_text, WORDS);
  const next = await client.responses.create({ model: "next", input: "And?", previous_response_id: response.id });
  assert.equal(next.output_text, WORDS);
  assert.deepEqual((await asked("next"))[0].messages.map((message) => message.content), ["Where?", WORDS, "And?"]);
  await client.responses.delete(response.id);
  await assert.rejects(client.responses.retrieve(response.id), OpenAI.NotFoundError);
});

test("a streamed response", async () => {
  const events = await collect(await client.responses.create({ model: "words", input: "Where?", stream: true }));
  assert.equal(events[0].type, "response.created");
  assert.equal(events.at(-1).type, "response.completed");
  const deltas = events.filter((event) => event.type === "response.output_text.delta");
  assert.equal(deltas.map((event) => event.delta).join(""), WORDS);
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, place) => place));
});

test("the stream helper of responses", async () => {
  const format = zodTextFormat(Place, "place");
  const stream = client.responses.stream({ model: "place", input: "Where?", text: { format } });
  const response = await stream.finalResponse();
  assert.deepEqual(response.output_parsed, { city: "Paris", people: 2 });
});

test("a tool call in responses", async () => {
  const tools = [{ type: "function", strict: true, ...weather }];
  const input = [{ role: "user", content: "Where?" }];
  const ask = { model: "openai-responses-tools", input, tools, store: false };
  const first = await client.responses.stream(ask).finalResponse();
  const call = first.output.find((item) => item.type === "function_call");
  assert.deepEqual(JSON.parse(call.arguments), { city: "Paris" });
  input.push(...first.output, { type: "function_call_output", call_id: call.call_id, output: "sunny" });
  const second = await client.responses.create(ask);
  assert.equal(second.output_text, WORDS);
  assert.equal(await toolResult("openai-responses-tools"), "sunny");
});

for (const stream of [false, true]) {
  const model = stream ? "openai-runner-streamed" : "openai-runner";
  test(`${model}: the tool runner of responses`, async () => {
    const tool = zodResponsesFunction({
      name: "weather",
      parameters: z.object({ city: z.string() }),
      function: ({ city }) => `sunny in ${city}`,
    });
    const runner = new ResponsesToolRunner({ functions: [runnerFunction(tool)] });
    const response = await runner.run(client, { model, input: "Where?" }, { stream });
    assert.equal(response.output_text, WORDS);
    assert.match(await toolResult(model), /sunny in Paris/);
  });
}

test("embeddings, which it asks for in base64", async () => {
  const { data, usage } = await client.embeddings.create({ model: "minilm", input: ["one", "two"] });
  assert.deepEqual(data.map((one) => [one.index, one.embedding.length]), [[0, 384], [1, 384]]);
  const length = Math.hypot(...data[0].embedding);
  assert.ok(Math.abs(length - 1) < 1e-3, `${length}`);
  assert.ok(usage.total_tokens > 0);
  const floats = await client.embeddings.create({ model: "minilm", input: "one", encoding_format: "float" });
  assert.ok(Math.abs(floats.data[0].embedding[7] - data[0].embedding[7]) < 1e-4);
});

test("a completion", async () => {
  const whole = await client.completions.create({ model: "words", prompt: "Where?", suffix: "." });
  assert.equal(whole.choices[0].text, WORDS);
  const chunks = await collect(await client.completions.create({ model: "words", prompt: "Where?", stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), WORDS);
});

test("models are listed and retrieved", async () => {
  const ids = (await collect(client.models.list())).map((model) => model.id);
  assert.ok(ids.includes("words") && ids.includes("call"));
  assert.equal((await client.models.retrieve("words")).id, "words");
  await assert.rejects(client.models.retrieve("nobody"), OpenAI.NotFoundError);
});

test("errors have their classes", async () => {
  const create = (more, options) => client.chat.completions.create({ model: "words", messages, ...more }, options);
  await assert.rejects(create({ model: "nobody" }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    assert.ok(error.requestID);
    return true;
  });
  await assert.rejects(create({ temperature: 9 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "temperature");
    return true;
  });
  await assert.rejects(create({ model: "busy" }), (error) => {
    assert.ok(error instanceof OpenAI.RateLimitError);
    assert.equal(error.headers.get("retry-after"), "7");
    return true;
  });
  await assert.rejects(create({ model: "broken" }), OpenAI.InternalServerError);
  const elsewhere = new OpenAI({ baseURL: `${root}/nowhere`, apiKey: "unused", maxRetries: 0 });
  await assert.rejects(elsewhere.models.list(), OpenAI.NotFoundError);
});

test("it tries again what may be tried again", async () => {
  const patient = new OpenAI({ baseURL, apiKey: "unused", maxRetries: 2 });
  const answer = await patient.chat.completions.create({ model: "busy-once", messages });
  assert.equal(answer.choices[0].message.content, WORDS);
});

for (const model of ["cut", "failing"]) {
  test(`${model}: a stream that breaks off is an error`, async () => {
    const stream = await client.chat.completions.create({ model, messages, stream: true });
    await assert.rejects(collect(stream), OpenAI.APIError);
    const events = await collect(await client.responses.create({ model, input: "Where?", stream: true }));
    assert.equal(events.at(-1).type, "response.failed");
    assert.ok(events.at(-1).response.error.message);
  });
}

test("a stream given up ends the work for it", async () => {
  const stream = await client.chat.completions.create({ model: "endless", messages, stream: true });
  for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
  await left("endless");
});

test("a request given up ends the work for it", async () => {
  const controller = new AbortController();
  const options = { signal: controller.signal };
  const answer = client.chat.completions.create({ model: "silent", messages }, options);
  await began("silent");
  controller.abort();
  await assert.rejects(answer, OpenAI.APIUserAbortError);
  await left("silent");
});
