// Where the gateway and the scripted upstream behind it are, and what the upstream saw.

import assert from "node:assert/strict";

export const root = process.env.GATEWAY_URL;
export const baseURL = `${root}/v1`;
export const WORDS = "Paris is lovely; so is Málaga ✓ 🌍.";
export const THOUGHT = "I have been there.";

async function upstream(path) {
  const reply = await fetch(`${process.env.UPSTREAM_URL}/${path}`);
  assert.equal(reply.status, 200);
  return reply.json();
}

// The bodies that a model was sent, oldest first.
export const asked = (model) => upstream(`asked/${model}`);

// Resolves once a model was asked.
export const began = (model) => upstream(`began/${model}`);

// Resolves once the upstream's reply was broken off.
export const left = (model) => upstream(`left/${model}`);

// The result of the one tool call, as the model was told it.
export async function toolResult(model) {
  const bodies = await asked(model);
  assert.equal(bodies.length, 2);
  const { messages } = bodies[1];
  const call = messages.find((message) => message.tool_calls);
  assert.equal(call.content, "Let me look.");
  const result = messages.find((message) => message.role === "tool");
  assert.equal(result.tool_call_id, call.tool_calls[0].id);
  return result.content;
}

export async function collect(iterable) {
  const all = [];
  for await (const one of iterable) all.push(one);
  return all;
}

export const weather = {
  name: "weather",
  description: "The weather of a city.",
  parameters: {
    type: "object",
    properties: { city: { type: "string" } },
    required: ["city"],
    additionalProperties: false,
  },
};
