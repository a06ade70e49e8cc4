"""What Anthropic's clients rely on in a stream, and a request of the shape that Claude Code sends."""

from __future__ import annotations

from typing import Any

import orjson

from tests.asgi import Response

Json = dict[str, Any]
TOOL = {"name": "weather", "description": "Of a city.", "input_schema": {"type": "object", "properties": {}}}


def body(text: str = "hello", **fields: Any) -> Json:
    return {"model": "auto", "max_tokens": 100, "messages": [{"role": "user", "content": text}], **fields}


def frames(reply: Response) -> list[Json]:
    """The events of a stream, each of which names itself twice."""
    out = []
    for frame in reply.body.decode().split("\n\n")[:-1]:
        name, data = frame.split("\n")
        event = orjson.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        out.append(event)
    return out


def blocks_of(events: list[Json]) -> list[Json]:
    """The content blocks of a stream, put together as the SDKs do. Raises: AssertionError, if they would not."""
    blocks: list[Json] = []
    is_open = False
    for event in events:
        if event["type"] == "content_block_start":
            assert not is_open and event["index"] == len(blocks)
            blocks.append(dict(event["content_block"]))
            is_open = True
        elif event["type"] == "content_block_delta":
            assert is_open and event["index"] == len(blocks) - 1
            delta, block = event["delta"], blocks[-1]
            field = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}.get(
                delta["type"]
            )
            if field:
                block[field] += delta[field]
            else:
                block["json"] = block.get("json", "") + delta["partial_json"]
        elif event["type"] == "content_block_stop":
            assert is_open and event["index"] == len(blocks) - 1
            is_open = False
    assert not is_open
    for block in blocks:
        if "json" in block:
            block["input"] = orjson.loads(block.pop("json"))
    return blocks


def message_of(reply: Response) -> Json:
    """The message that a whole stream comes to."""
    assert reply.status == 200 and reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = [event for event in frames(reply) if event["type"] != "ping"]
    kinds = [event["type"] for event in events]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    assert set(kinds[1:-2]) <= {"content_block_start", "content_block_delta", "content_block_stop"}
    start, end = events[0]["message"], events[-2]
    assert start["content"] == [] and start["stop_reason"] is None
    gateway = events[-1]["gateway"]
    usage = {**start["usage"], **end["usage"]}
    return {**start, "content": blocks_of(events), **end["delta"], "usage": usage, "gateway": gateway}


def claude_code(**fields: Any) -> Json:
    """About 50 KB, as Claude Code 2.1 sends it."""
    cached = {"type": "ephemeral", "ttl": "1h"}
    tools = [
        {
            "name": f"Tool{number}",
            "description": "Does one thing to files of the project, and says what it did. " * 24,
            "input_schema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "properties": {"path": {"type": "string"}, "limit": {"type": "integer", "exclusiveMinimum": 0}},
                "required": ["path"],
                "additionalProperties": False,
            },
            **({"defer_loading": True} if number > 9 else {}),
        }
        for number in range(20)
    ]
    return {
        "model": "claude-sonnet-5-5",
        "max_tokens": 32000,
        "stream": True,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.329; cc_entrypoint=cli;"},
            {"type": "text", "text": "You are Claude Code.", "cache_control": cached},
            {"type": "text", "text": "Be brief, and careful. " * 500, "cache_control": cached},
        ],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "<system-reminder>Today is Friday.</system-reminder>"},
                    {"type": "text", "text": "What is in src?", "cache_control": cached},
                ],
            },
            {"role": "system", "content": "The user has opened src/a.py."},
        ],
        "tools": tools,
        "metadata": {"user_id": f"user_{'0' * 64}_account__session_{'1' * 36}"},
        "thinking": {"type": "adaptive", "display": "summarized"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "xhigh"},
        **fields,
    }
