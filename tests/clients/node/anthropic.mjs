import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { z } from "zod";
import { THOUGHT, WORDS, asked, collect, left, root, toolResult, weather } from "./gateway.mjs";

const client = new Anthropic({ baseURL: root, apiKey: "unused", maxRetries: 0 });
const messages = [{ role: "user", content: "Where?" }];
const ask = { model: "words", max_tokens: 100, messages };
const tools = [{ name: weather.name, description: weather.description, input_schema: weather.parameters }];

test("a whole message", async () => {
  const message = await client.messages.create({ ...ask, system: "Be brief." });
  assert.deepEqual(message.content.map((block) => block.text), [WORDS]);
  assert.equal(message.stop_reason, "end_turn");
  assert.ok(message.usage.input_tokens > 0 && message.usage.output_tokens > 0);
  assert.ok(message._request_id);
});

test("a streamed message", async () => {
  const events = await collect(await client.messages.create({ ...ask, stream: true }));
  assert.equal(events[0].type, "message_start");
  assert.equal(events.at(-1).type, "message_stop");
  const deltas = events.filter((event) => event.delta?.type === "text_delta");
  assert.equal(deltas.map((event) => event.delta.text).join(""), WORDS);
});

test("the stream helper", async () => {
  const heard = [];
  const stream = client.messages.stream(ask).on("text", (delta) => heard.push(delta));
  const message = await stream.finalMessage();
  assert.equal(await stream.finalText(), WORDS);
  assert.equal(heard.join(""), WORDS);
  assert.ok(message.usage.output_tokens > 0);
});

test("a thought", async () => {
  const thinking = { type: "enabled", budget_tokens: 1024 };
  const stream = client.messages.stream({ ...ask, model: "thinker", thinking, max_tokens: 2000 });
  const { content } = await stream.finalMessage();
  assert.deepEqual(content.map((block) => block.type), ["thinking", "text"]);
  assert.equal(content[0].thinking, THOUGHT);
});

test("a tool call, and its result", async () => {
  const model = "messages-tools";
  const first = await client.messages.stream({ ...ask, model, tools }).finalMessage();
  assert.equal(first.stop_reason, "tool_use");
  const call = first.content.find((block) => block.type === "tool_use");
  assert.deepEqual(call.input, { city: "Paris" });
  const result = { type: "tool_result", tool_use_id: call.id, content: [{ type: "text", text: "sunny" }] };
  const told = [...messages, { role: "assistant", content: first.content }, { role: "user", content: [result] }];
  const second = await client.messages.create({ ...ask, model, tools, messages: told });
  assert.equal(second.content[0].text, WORDS);
  assert.equal(await toolResult(model), "sunny");
});

for (const stream of [false, true]) {
  const model = stream ? "messages-runner-streamed" : "messages-runner";
  test(`${model}: the tool runner`, async () => {
    const tool = betaZodTool({
      name: "weather",
      description: "The weather of a city.",
      inputSchema: z.object({ city: z.string() }),
      run: ({ city }) => `sunny in ${city}`,
    });
    const last = await client.beta.messages.toolRunner({ ...ask, model, tools: [tool], stream }).runUntilDone();
    assert.equal(last.content[0].text, WORDS);
    assert.equal(await toolResult(model), "sunny in Paris");
  });
}

test("a thread, which the server may keep, has no gaps", async () => {
  const thread = client.beta.messages.thread({ model: "messages-thread", max_tokens: 100 });
  await thread.send({ role: "user", content: "Where?" });
  await thread.send({ role: "user", content: "And?" });
  const [, second] = await asked("messages-thread");
  assert.deepEqual(second.messages.map((message) => message.content), ["Where?", WORDS, "And?"]);
});

test("an answer parsed with zod", async () => {
  const Place = z.object({ city: z.string(), people: z.number() });
  const format = zodOutputFormat(Place);
  const message = await client.messages.parse({ ...ask, model: "place", output_config: { format } });
  assert.deepEqual(message.parsed_output, { city: "Paris", people: 2 });
});

test("tokens are counted", async () => {
  const { input_tokens } = await client.messages.countTokens({ model: "words", messages, tools });
  assert.ok(input_tokens > 0);
});

test("models are listed", async () => {
  const ids = (await collect(client.models.list())).map((model) => model.id);
  assert.ok(ids.includes("words"));
  assert.equal((await client.models.retrieve("words")).type, "model");
});

test("errors have their classes", async () => {
  await assert.rejects(client.messages.create({ ...ask, model: "nobody" }), (error) => {
    assert.ok(error instanceof Anthropic.NotFoundError);
    assert.equal(error.type, "not_found_error");
    return true;
  });
  await assert.rejects(client.messages.create({ ...ask, max_tokens: -1 }), Anthropic.BadRequestError);
  await assert.rejects(client.messages.create({ ...ask, model: "busy" }), Anthropic.RateLimitError);
  await assert.rejects(client.messages.create({ ...ask, model: "broken" }), Anthropic.InternalServerError);
});

for (const model of ["cut", "failing"]) {
  test(`${model}: a stream that breaks off is an error`, async () => {
    await assert.rejects(client.messages.stream({ ...ask, model }).finalMessage(), Anthropic.APIError);
  });
}

test("a stream given up ends the work for it", async () => {
  const stream = client.messages.stream({ ...ask, model: "messages-endless" });
  stream.on("text", () => stream.abort());
  await assert.rejects(stream.done(), Anthropic.APIUserAbortError);
  await left("messages-endless");
});

test("what the model was sent", async () => {
  await client.messages.create({ ...ask, model: "messages-fields", system: "Be brief.", stop_sequences: ["END"] });
  const [body] = await asked("messages-fields");
  assert.deepEqual(body.messages.map((message) => message.role), ["system", "user"]);
  assert.deepEqual(body.stop, ["END"]);
});
