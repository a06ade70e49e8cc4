"""What clients ask of a gateway, one small request each: `gateway connect CLIENT --test` tries those of a client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.chat import Json
from gateway.setup.clients import PROMPT, Failure, Server
from gateway.setup.clients.reply import failure_of
from gateway.transport import ConnectFailed, ConnectionCut, HttpReply, ReplyTooLarge
from gateway.transport.client import PooledClient
from gateway.transport.sse import SseDecoder

CONNECT_S = 5.0
LIMIT_BYTES = 32 << 20
MAX_TOKENS = 24
MESSAGES = [{"role": "user", "content": PROMPT}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "Current weather of a city", "parameters": PARAMETERS}
NOT_WHAT_WAS_ASKED = "the reply is not of the kind that was asked for"


@dataclass(frozen=True, slots=True)
class Surface:
    """One way of asking.

    Args:
        path: below the gateway's root.
        body: of a POST, made for a model's name; None for a GET.
        read: the reply's first words, or what it lists. Raises: ValueError, KeyError, IndexError, TypeError for what
            is not such a reply.
    """

    name: str
    path: str
    read: Callable[[bytes], str]
    body: Callable[[str], Json] | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """`says`: first words, or what is listed. `model`: who answered, as the headers say."""

    surface: Surface
    says: str = ""
    model: str | None = None
    took_s: float = 0.0
    failure: Failure | None = None


def _events(raw: bytes) -> list[Any]:
    decoder = SseDecoder()
    payloads = [*decoder.feed(raw), *decoder.flush()]
    events = [orjson.loads(payload) for payload in payloads if payload != b"[DONE]"]
    for event in events:
        if event.get("error"):
            raise ValueError(str(event["error"].get("message")))
    return events


def _lines(raw: bytes) -> list[Any]:
    return [orjson.loads(line) for line in raw.splitlines() if line]


def _chat(raw: bytes) -> str:
    message = orjson.loads(raw)["choices"][0]["message"]
    calls = [f"calls {call['function']['name']}" for call in message.get("tool_calls") or ()]
    return str(message["content"] or "") + ", ".join(calls)


def _chat_stream(raw: bytes) -> str:
    if not raw.rstrip().endswith(b"data: [DONE]"):
        raise ValueError("the stream broke off before its end")
    deltas = [choice["delta"] for event in _events(raw) for choice in event["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def _completion(raw: bytes) -> str:
    return str(orjson.loads(raw)["choices"][0]["text"])


def _models(raw: bytes) -> str:
    return f"{len(orjson.loads(raw)['data'])} names"


def _response(raw: bytes) -> str:
    parts = [part for item in orjson.loads(raw)["output"] for part in item.get("content") or ()]
    return "".join(part.get("text", "") for part in parts)


def _response_stream(raw: bytes) -> str:
    events = _events(raw)
    if events[-1]["type"] not in ("response.completed", "response.incomplete"):
        raise ValueError("the stream broke off before its end")
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


def _message(raw: bytes) -> str:
    return "".join(block.get("text", "") for block in orjson.loads(raw)["content"])


def _message_stream(raw: bytes) -> str:
    events = _events(raw)
    if events[-1]["type"] != "message_stop":
        raise ValueError("the stream broke off before its end")
    return "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")


def _ollama_stream(raw: bytes) -> str:
    lines = _lines(raw)
    if lines[-1].get("done") is not True:
        raise ValueError(str(lines[-1].get("error") or "the stream broke off before its end"))
    return "".join(line["message"]["content"] for line in lines)


def _vectors(raw: bytes) -> str:
    data = orjson.loads(raw)["data"]
    return f"{len(data)} vectors of {len(data[0]['embedding'])} numbers"


def _ranking(raw: bytes) -> str:
    results = orjson.loads(raw)["results"]
    return f"best is document {results[0]['index']} of {len(results)}"


def _chat_body(**more: Any) -> Callable[[str], Json]:
    return lambda model: {"model": model, "messages": MESSAGES, "max_tokens": MAX_TOKENS, **more}


def _prompt_body(**more: Any) -> Callable[[str], Json]:
    return lambda model: {"model": model, "prompt": "The sea is", "max_tokens": MAX_TOKENS, **more}


def _response_body(model: str) -> Json:
    return {"model": model, "input": PROMPT, "max_output_tokens": MAX_TOKENS, "store": False}


SURFACES: Mapping[str, Surface] = {
    surface.name: surface
    for surface in (
        Surface("models", "/v1/models", _models),
        Surface("chat", "/v1/chat/completions", _chat, _chat_body()),
        Surface("chat stream", "/v1/chat/completions", _chat_stream, _chat_body(stream=True)),
        Surface(
            "chat with tools",
            "/v1/chat/completions",
            _chat,
            _chat_body(tools=[{"type": "function", "function": FUNCTION}]),
        ),
        Surface("completions", "/v1/completions", _completion, _prompt_body()),
        Surface("fim", "/v1/fim/completions", _chat, _prompt_body()),
        Surface("responses", "/v1/responses", _response, _response_body),
        Surface(
            "responses stream",
            "/v1/responses",
            _response_stream,
            lambda model: {**_response_body(model), "stream": True},
        ),
        Surface("messages", "/v1/messages", _message, _chat_body()),
        Surface("messages stream", "/v1/messages", _message_stream, _chat_body(stream=True)),
        Surface(
            "count tokens",
            "/v1/messages/count_tokens",
            lambda raw: f"{orjson.loads(raw)['input_tokens']} tokens",
            lambda model: {"model": model, "messages": MESSAGES},
        ),
        Surface("ollama version", "/api/version", lambda raw: str(orjson.loads(raw)["version"])),
        Surface("ollama tags", "/api/tags", lambda raw: f"{len(orjson.loads(raw)['models'])} names"),
        Surface(
            "ollama show",
            "/api/show",
            lambda raw: ", ".join(orjson.loads(raw)["capabilities"]),
            lambda model: {"model": model},
        ),
        Surface(
            "ollama chat stream",
            "/api/chat",
            _ollama_stream,
            lambda model: {"model": model, "messages": MESSAGES, "options": {"num_predict": MAX_TOKENS}},
        ),
        Surface("embeddings", "/v1/embeddings", _vectors, lambda model: {"model": "auto", "input": ["sea", "sky"]}),
        Surface(
            "rerank",
            "/v1/rerank",
            _ranking,
            lambda model: {"model": "auto", "query": "water", "documents": ["fire", "the sea"]},
        ),
    )
}


async def try_all(server: Server, surfaces: Sequence[Surface]) -> list[Seen]:
    """One after the other: the model may have one place."""
    client = PooledClient()
    try:
        return [await _try(client, server, surface) for surface in surfaces]
    finally:
        await client.close()


async def _try(client: PooledClient, server: Server, surface: Surface) -> Seen:
    headers = {"accept": "*/*", **({"authorization": f"Bearer {server.key}"} if server.key else {})}
    url, started, reply = server.root + surface.path, time.monotonic(), None
    try:
        async with asyncio.timeout(server.timeout_s):
            if surface.body is None:
                reply = await client.get(url, headers, connect_s=CONNECT_S)
            else:
                headers["content-type"] = "application/json"
                body = orjson.dumps(surface.body(server.model))
                reply = await client.post(url, headers, body, connect_s=CONNECT_S)
            raw = await reply.read(LIMIT_BYTES)
    except TimeoutError:
        return Seen(surface, failure=Failure(f"no answer within {server.timeout_s:g} s", code="timeout"))
    except (ConnectFailed, ConnectionCut, ReplyTooLarge) as exc:
        return Seen(surface, failure=Failure(f"the connection failed: {type(exc).__name__}"))
    finally:
        if reply is not None:
            reply.close()
    return _judged(surface, reply, raw, time.monotonic() - started)


def _judged(surface: Surface, reply: HttpReply, raw: bytes, took_s: float) -> Seen:
    model = reply.headers.get("x-gateway-model")
    if reply.status != 200:
        return Seen(surface, model=model, took_s=took_s, failure=failure_of(reply.status, raw))
    try:
        return Seen(surface, surface.read(raw), model, took_s)
    except (KeyError, IndexError, TypeError, AttributeError):
        return Seen(surface, model=model, took_s=took_s, failure=Failure(NOT_WHAT_WAS_ASKED))
    except ValueError as exc:  # not JSON, or what a stream said of itself
        said = NOT_WHAT_WAS_ASKED if isinstance(exc, orjson.JSONDecodeError) else str(exc)
        return Seen(surface, model=model, took_s=took_s, failure=Failure(said))
