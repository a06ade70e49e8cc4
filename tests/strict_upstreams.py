"""Upstreams on real sockets that refuse, with a 400, every conversation that the provider they stand for would refuse,
and answer others with words, thoughts and tool calls of their own making."""

from __future__ import annotations

import random
import re
import string
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

Json = dict[str, Any]
WORDS = "the box stands in a room behind some door that nobody opened".split()
LETTERS = string.ascii_letters + string.digits
OF_CHAT = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "tool": {"role", "content", "tool_call_id"},
    "assistant": {"role", "content", "name", "refusal", "audio", "tool_calls", "function_call", "annotations"},
}


class Refused(Exception):
    pass


def demand(holds: object, what: str) -> None:
    if not holds:
        raise Refused(what)


@dataclass
class Turn:
    """What an upstream says: name and arguments of each call."""

    text: str
    thinking: str
    calls: list[tuple[str, Json]]


class Strict:
    """Counts what it was `asked` and the thoughts of its own that it was shown again, `recognised`; `refusals` say why,
    each time."""

    path = "/v1/chat/completions"

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.asked = self.recognised = 0
        self.refusals: list[str] = []
        self.signatures: set[str] = set()
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.asked += 1
        try:
            demand(request.path == self.path, f"path {request.path}")
            self.check(body)
        except Refused as refused:
            self.refusals.append(f"{type(self).__name__}: {refused}")
            error = {"message": str(refused), "type": "invalid_request_error"}
            return web.json_response({"type": "error", "error": error}, status=400)
        turn = self._turn()
        if not body.get("stream"):
            return web.json_response(self.whole(turn, body))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in [*self.events(self.whole(turn, body)), *self.last_events]:
            name = f"event: {event['type']}\n" if isinstance(event, dict) and "type" in event else ""
            data = event if isinstance(event, str) else orjson.dumps(event).decode()
            await response.write(f"{name}data: {data}\n\n".encode())
        return response

    last_events: tuple[str, ...] = ()

    def _turn(self) -> Turn:
        chance = self.random
        calls = [("look_up", {"place": chance.choice(WORDS), "n": i}) for i in range(chance.choice([0, 1, 1, 2, 3]))]
        text = " ".join(chance.choices(WORDS, k=4)) if not calls or chance.random() < 0.5 else ""
        return Turn(text, " ".join(chance.choices(WORDS, k=3)), calls)

    def sign(self) -> str:
        signature = f"{type(self).__name__}-{self.letters(24)}=="
        self.signatures.add(signature)
        return signature

    def recognise(self, signature: object, where: str) -> None:
        demand(signature in self.signatures, f"{where}: signature {signature!r} is not valid")
        self.recognised += 1

    def letters(self, count: int) -> str:
        return "".join(self.random.choices(LETTERS, k=count))

    def check(self, body: Json) -> None:
        raise NotImplementedError

    def whole(self, turn: Turn, body: Json) -> Json:
        raise NotImplementedError

    def events(self, whole: Json) -> list[Json]:
        raise NotImplementedError


# -- chats ---------------------------------------------------------------------------------------------------------


class Chat(Strict):
    """The rules that OpenAI and all who took its protocol have in common."""

    last_events = ("[DONE]",)
    in_order = False

    def check(self, body: Json) -> None:
        due: list[str] = []
        for i, message in enumerate(body["messages"]):
            role = message.get("role")
            demand(role in OF_CHAT, f"messages[{i}].role {role!r}")
            self.check_message(message, i)
            if role == "tool":
                id = message.get("tool_call_id")
                demand(due, f"messages[{i}]: 'tool' must follow 'tool_calls'")
                demand(id in due and (not self.in_order or id == due[0]), f"messages[{i}].tool_call_id {id!r} not due")
                due.remove(id)
                continue
            demand(not due, f"messages[{i}]: 'tool_calls' must be followed by tool messages: {due}")
            if role != "assistant":
                demand(message.get("content"), f"messages[{i}].content missing")
                continue
            calls = message.get("tool_calls") or []
            demand(calls or message.get("content"), f"messages[{i}]: content or tool_calls must be set")
            due = [call["id"] for call in calls]
            demand(len(set(due)) == len(due), f"messages[{i}]: ids twice {due}")
            for call in calls:
                self.check_call(call, i)
        demand(not due, "the last 'tool_calls' must be followed by tool messages")

    def check_message(self, message: Json, i: int) -> None:
        pass

    def check_call(self, call: Json, i: int) -> None:
        demand(call.get("type") == "function" and isinstance(call["function"]["arguments"], str), f"messages[{i}] call")

    def id(self, number: int) -> str:
        return f"call_{self.letters(24)}"

    def message(self, turn: Turn) -> Json:
        message: Json = {"role": "assistant", "content": turn.text or None}
        if turn.calls:
            message["tool_calls"] = [
                {
                    "id": self.id(i),
                    "type": "function",
                    "function": {"name": name, "arguments": orjson.dumps(arguments).decode()},
                }
                for i, (name, arguments) in enumerate(turn.calls)
            ]
        return message

    def whole(self, turn: Turn, body: Json) -> Json:
        choice = {"index": 0, "message": self.message(turn), "finish_reason": "tool_calls" if turn.calls else "stop"}
        usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
        return {
            "id": "c1",
            "object": "chat.completion",
            "created": 1,
            "model": "up",
            "choices": [choice],
            "usage": usage,
        }

    def events(self, whole: Json) -> list[Json]:
        (choice,) = whole["choices"]
        delta = choice["message"]
        numbered = [{"index": i, **call} for i, call in enumerate(delta.get("tool_calls") or ())]
        delta = {**delta, "tool_calls": numbered} if numbered else delta
        head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "up"}
        return [
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]},
            {**head, "choices": [], "usage": whole["usage"]},
        ]


class OpenAI(Chat):
    def check_message(self, message: Json, i: int) -> None:
        unknown = message.keys() - OF_CHAT[message["role"]]
        demand(not unknown, f"messages[{i}]: additional properties are not allowed: {sorted(unknown)}")

    def check_call(self, call: Json, i: int) -> None:
        super().check_call(call, i)
        demand(call.keys() == {"id", "type", "function"}, f"messages[{i}].tool_calls: {sorted(call)}")
        demand(0 < len(call["id"]) <= 40, f"messages[{i}].tool_calls.id: string too long: {call['id']!r}")


class Mistral(OpenAI):
    """As mistral-common has validated it for its API, with `tool` before `user` refused, as that still does."""

    in_order = True
    after: dict[str | None, set[str]] = {
        None: {"system", "user", "assistant"},
        "system": {"system", "user", "assistant"},
        "user": {"system", "user", "assistant"},
        "assistant": {"assistant", "user", "tool"},
        "tool": {"assistant", "tool"},
    }

    def check(self, body: Json) -> None:
        before = None
        messages = body["messages"]
        for i, message in enumerate(messages):
            role = message["role"]
            demand(role in self.after[before], f"messages[{i}]: unexpected role '{role}' after role '{before}'")
            demand(not message.get("prefix") or i == len(messages) - 1, f"messages[{i}]: prefix must be last")
            before = role
        is_prefix = messages[-1].get("prefix") and messages[-1].get("content")
        demand(before in ("user", "tool") or is_prefix, f"expected last role user or tool but got {before}")
        demand(len(messages) > 1 or before in ("user", "system"), "must start with a user message")
        super().check({"messages": [{k: v for k, v in m.items() if k != "prefix"} for m in messages]})

    def check_message(self, message: Json, i: int) -> None:
        unknown = message.keys() - {"role", "content", "tool_calls", "tool_call_id"}
        demand(not unknown, f"messages[{i}]: extra inputs are not permitted: {sorted(unknown)}")

    def check_call(self, call: Json, i: int) -> None:
        super().check_call(call, i)
        demand(re.fullmatch(r"[a-zA-Z0-9]{9}", call["id"]), f"tool call id was {call['id']!r}")

    def id(self, number: int) -> str:
        return self.letters(9)


class DeepSeek(Chat):
    """One that thinks: it wants its thoughts back once there are tools."""

    def check(self, body: Json) -> None:
        super().check(body)
        if any(message.get("tool_calls") for message in body["messages"]):
            for i, message in enumerate(body["messages"]):
                has = message["role"] != "assistant" or message.get("reasoning_content")
                demand(has, f"messages[{i}]: the `reasoning_content` must be passed back")

    def id(self, number: int) -> str:
        return f"call_{number:02}_{self.letters(24)}"

    def message(self, turn: Turn) -> Json:
        return {**super().message(turn), "reasoning_content": turn.thinking}


class Odd(Chat):
    """Ids like Kimi's, the same in every turn, and like Gemini's behind litellm, hundreds of characters long; signed
    details like OpenRouter's."""

    def check_message(self, message: Json, i: int) -> None:
        signatures = [detail.get("signature") for detail in message.get("reasoning_details") or ()]
        signatures += [block.get("signature") for block in message.get("thinking_blocks") or ()]
        signatures += [item.get("encrypted_content") for item in message.get("reasoning_items") or ()]
        for signature in signatures:
            self.recognise(signature, f"messages[{i}]")

    def id(self, number: int) -> str:
        if self.random.random() < 0.5:
            return f"functions.look_up:{number}"
        return f"call_{self.letters(28)}__thought__{self.letters(300)}+/=="

    def message(self, turn: Turn) -> Json:
        details = [{"type": "reasoning.text", "text": turn.thinking, "signature": self.sign(), "index": 0}]
        message = super().message(turn)
        for call in message.get("tool_calls") or ():
            call["extra_content"] = {"google": {"thought_signature": self.sign()}}
        return {**message, "reasoning": turn.thinking, "reasoning_details": details}


@asynccontextmanager
async def strict(*servers: Strict) -> AsyncIterator[None]:
    """All of them, each at its `url`."""
    runners: list[web.AppRunner] = []
    try:
        for server in servers:
            app = web.Application(client_max_size=64 * 1024 * 1024)
            app.router.add_route("*", "/{tail:.*}", server.answer)
            runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
            runners.append(runner)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield
    finally:
        for runner in runners:
            await runner.cleanup()
