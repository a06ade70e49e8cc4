"""Models of different providers take turns in one conversation, and none of them ever refuses it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from gateway.backends import litellm
from gateway.draft import Draft
from tests.asgi import Client, Response
from tests.conftest import Serve
from tests.strict_dialects import Claude, Responses
from tests.strict_upstreams import DeepSeek, Json, Mistral, Odd, OpenAI, Strict, strict

TURNS = 50
SEEDS = pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]
pytestmark = pytest.mark.filterwarnings(f"ignore:{litellm.READ_ONLY}:UserWarning")
ENTRIES: dict[str, tuple[type[Strict], str]] = {
    "openai": (OpenAI, "engine: openai, provider: openai, base_url: '{url}/v1', model: gpt-4o"),
    "mistral": (Mistral, "engine: openai, provider: mistral, base_url: '{url}/v1', model: mistral-large"),
    "deepseek": (DeepSeek, "engine: openai, provider: deepseek, base_url: '{url}/v1', model: deepseek-v4"),
    "odd": (Odd, "engine: openai, base_url: '{url}/v1', model: house-model"),
    "claude": (Claude, "engine: litellm, base_url: '{url}', model: anthropic/claude-sonnet-4-5"),
    "claude2": (Claude, "engine: openai, provider: anthropic, base_url: '{url}/v1', model: claude-sonnet-4-5"),
    "o": (Responses, "engine: openai, provider: openai, speaks: responses, base_url: '{url}/v1', model: o4-mini"),
}


ENTRIES |= {"claude3": ENTRIES["claude2"], "o2": ENTRIES["o"]}


class Agent:
    """A client that keeps the whole conversation, as clients do: all that answers hold, and not always in order."""

    def __init__(self, client: Client, names: list[str], seed: int) -> None:
        self.client, self.names = client, names
        self.random = random.Random(seed)
        self.messages: list[Json] = [{"role": "system", "content": "be brief"}, self._user()]

    def _user(self) -> Json:
        return {"role": "user", "content": self.random.choice(["where is it?", "and then?", "look again"])}

    def _may(self, chance: float) -> bool:
        return self.random.random() < chance

    async def take_turn(self) -> Response:
        body: Json = {"model": self.random.choice(self.names), "messages": self.messages, "tools": TOOLS}
        body |= {"stream": True} if self._may(0.5) else {}
        body |= {"reasoning_effort": "low", "max_tokens": 8000} if self._may(0.5) else {}
        reply = await self.client.call("POST", "/v1/chat/completions", body)
        if reply.status == 200:
            self._go_on(said_in(reply))
        return reply

    def _go_on(self, answer: Json) -> None:
        if self._may(0.1):
            answer = {name: value for name, value in answer.items() if name in ("role", "content", "tool_calls")}
        if self._may(0.05):
            answer = {"role": "assistant", "content": ""}
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": "it is there"}
            for call in answer.get("tool_calls") or ()
        ]
        if results and self._may(0.2):
            results.pop(self.random.randrange(len(results)))
        if results and self._may(0.1):
            results.append(results[0])
        if self._may(0.2):
            self.random.shuffle(results)
        if results and self._may(0.1):
            results.insert(self.random.randrange(len(results) + 1), self._user())
        self.messages = [*self.messages, answer, *results]
        if (not results and not self._may(0.05)) or self._may(0.05):
            self.messages.append(self._user())
        if self._may(0.08):  # it forgets how it began
            self.messages = self.messages[self.random.randrange(len(self.messages)) :]


class AnthropicAgent(Agent):
    """The same, in Anthropic's words."""

    def __init__(self, client: Client, names: list[str], seed: int) -> None:
        super().__init__(client, names, seed)
        self.messages = [self._user()]

    async def take_turn(self) -> Response:
        tools = [{"name": "look_up", "input_schema": {"type": "object", "properties": {}}}]
        body: Json = {"model": self.random.choice(self.names), "messages": self.messages, "tools": tools}
        body |= {"max_tokens": 8000, "system": "be brief"}
        body |= {"thinking": {"type": "enabled", "budget_tokens": 2000}} if self._may(0.5) else {}
        reply = await self.client.call("POST", "/v1/messages", body)
        if reply.status == 200:
            self._go_on({"role": "assistant", "content": reply.json["content"]})
        return reply

    def _go_on(self, answer: Json) -> None:
        ids = [block["id"] for block in answer["content"] if block["type"] == "tool_use"]
        if ids and self._may(0.1):
            ids.pop()
        blocks: list[Json] = [{"type": "tool_result", "tool_use_id": id, "content": "it is there"} for id in ids]
        if not blocks or self._may(0.3):
            blocks.append({"type": "text", "text": "look well"})
        self.messages = [*self.messages, answer, {"role": "user", "content": blocks}]


class ResponsesAgent(Agent):
    """The same, in the words of the Responses API."""

    def __init__(self, client: Client, names: list[str], seed: int) -> None:
        super().__init__(client, names, seed)
        self.messages = [self._user()]

    async def take_turn(self) -> Response:
        tools = [{"type": "function", "name": "look_up", "parameters": {"type": "object", "properties": {}}}]
        body: Json = {"model": self.random.choice(self.names), "input": self.messages, "tools": tools, "store": False}
        body |= {"include": ["reasoning.encrypted_content"], "instructions": "be brief"}
        body |= {"reasoning": {"effort": "low"}, "max_output_tokens": 8000} if self._may(0.5) else {}
        reply = await self.client.call("POST", "/v1/responses", body)
        if reply.status == 200:
            self._go_on(reply.json)
        return reply

    def _go_on(self, answer: Json) -> None:
        ids = [item["call_id"] for item in answer["output"] if item["type"] == "function_call"]
        if ids and self._may(0.1):
            ids.pop()
        results: list[Json] = [{"type": "function_call_output", "call_id": id, "output": "it is there"} for id in ids]
        if not results or self._may(0.1):
            results.append(self._user())
        self.messages = [*self.messages, *answer["output"], *results]


def said_in(reply: Response) -> Json:
    if not reply.headers["content-type"].startswith("text/event-stream"):
        message: Json = reply.json["choices"][0]["message"]
        return message
    draft = Draft()
    assert reply.events[-1] == "[DONE]", reply.events[-1]
    for event in reply.events[:-1]:
        draft.add(event)
    said: Json = draft.completion()["choices"][0]["message"]
    return said


def models_of(names: list[str], servers: list[Strict]) -> str:
    entries = zip(names, servers, strict=True)
    lines = (f"  {name}: {{{ENTRIES[name][1].format(url=server.url)}, api_key: k}}\n" for name, server in entries)
    return "models:\n" + "".join(lines)


async def alternate(
    serve: Serve, names: list[str], seed: int, turns: int = TURNS, kind: type[Agent] = Agent
) -> list[Strict]:
    servers = [ENTRIES[name][0](seed + i) for i, name in enumerate(names)]
    async with strict(*servers):
        client = await serve(models_of(names, servers))
        agent = kind(client, names, seed)
        for turn in range(turns):
            asked: list[Any] = agent.messages
            reply = await agent.take_turn()
            refusals = [refusal for server in servers for refusal in server.refusals]
            assert reply.status == 200, (turn, reply.body, refusals, asked[-6:])
    assert sum(server.asked for server in servers) == turns
    assert not [refusal for server in servers for refusal in server.refusals]
    return servers


@SEEDS
@pytest.mark.parametrize(
    "names",
    [
        ["openai", "mistral"],
        ["openai", "claude"],
        ["mistral", "claude2"],
        ["deepseek", "odd"],
        ["o", "claude2"],
    ],
    ids="+".join,
)
async def test_two_providers_alternate_and_none_refuses(serve: Serve, names: list[str], seed: int) -> None:
    servers = await alternate(serve, names, seed)
    assert all(server.asked > TURNS / 5 for server in servers)
    assert all(server.recognised for server in servers if len(server.signatures) > 4)


@SEEDS
async def test_all_of_them_alternate_and_none_refuses(serve: Serve, seed: int) -> None:
    await alternate(serve, list(ENTRIES), 100 + seed, turns=100)


@SEEDS
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (AnthropicAgent, ["claude2", "claude3"]),
        (AnthropicAgent, ["claude2", "openai", "deepseek", "o"]),
        (ResponsesAgent, ["o", "o2"]),
        (ResponsesAgent, ["o", "claude2", "mistral", "odd"]),
    ],
    ids=["anthropic, same", "anthropic, others", "responses, same", "responses, others"],
)
async def test_clients_of_other_dialects_may_alternate_too(
    serve: Serve, kind: type[Agent], names: list[str], seed: int
) -> None:
    servers = await alternate(serve, names, seed, kind=kind)
    assert any(server.recognised for server in servers)


POLICY = """
policy: default
routes:
  - name: rest
    answer:
      cascade:
        - {model: openai, checks: [{regex: room|door}]}
        - {model: mistral, checks: [{regex: room|door|box}]}
        - {model: claude2}
"""


@SEEDS
async def test_a_cascade_goes_on_with_whoever_called_the_tool(serve: Serve, seed: int) -> None:
    names = ["openai", "mistral", "claude2"]
    servers = [ENTRIES[name][0](seed + i) for i, name in enumerate(names)]
    async with strict(*servers):
        client = await serve(models_of(names, servers), default=POLICY)
        messages: list[Json] = [{"role": "user", "content": "where is it?"}]
        maker, stayed = None, set()
        for turn in range(TURNS):
            body = {"model": "auto", "messages": messages, "tools": TOOLS, "stream": turn % 2 == 0}
            reply = await client.call("POST", "/v1/chat/completions", body)
            assert reply.status == 200, (turn, reply.body)
            asked = [hop.partition("!")[0] for hop in reply.gateway["path"].split(",")]
            assert asked[0] == (maker or "openai")
            assert asked == names[names.index(asked[0]) :][: len(asked)]  # outward only
            answer = said_in(reply)
            calls = answer.get("tool_calls") or ()
            stayed |= {maker}
            maker = reply.gateway["model"] if calls else None
            results = [{"role": "tool", "tool_call_id": call["id"], "content": "it is there"} for call in calls]
            messages = [*messages, answer, *(results or [{"role": "user", "content": "and then?"}])]
    assert stayed == {None, *names}
    assert not [refusal for server in servers for refusal in server.refusals]
