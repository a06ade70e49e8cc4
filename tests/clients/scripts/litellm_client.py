"""litellm as a client, of our OpenAI and of our Anthropic side."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import litellm
from run import BASE, KEY, URL

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
OPENAI: dict[str, Any] = {"api_base": BASE, "api_key": KEY, "num_retries": 0, "timeout": 20}
ANTHROPIC: dict[str, Any] = {**OPENAI, "api_base": URL}


def say(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_whole() -> None:
    answer = litellm.completion("openai/auto", say("hello"), **OPENAI)
    assert answer.choices[0].message.content == "Hello from small" and answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 3)


def test_streamed() -> None:
    chunks = list(
        litellm.completion("openai/auto", say("hello"), stream=True, stream_options={"include_usage": True}, **OPENAI)
    )
    built = litellm.stream_chunk_builder(chunks)
    assert built.choices[0].message.content == "Hello from small" and built.usage.total_tokens == 14


async def test_async() -> None:
    one, other = await asyncio.gather(
        litellm.acompletion("openai/auto", say("hello"), **OPENAI),
        litellm.acompletion("openai/auto", say("something hard"), **OPENAI),
    )
    assert [answer.choices[0].message.content for answer in (one, other)] == ["Hello from small", "the hard answer"]


def _loop(model: str, question: str, options: dict[str, Any], *, stream: bool = False) -> None:
    messages = say(question)
    first = litellm.completion(model, messages, tools=[TOOL], stream=stream, **options)
    if stream:
        first = litellm.stream_chunk_builder(list(first))
    message = first.choices[0].message
    (call,) = message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})
    assert first.choices[0].finish_reason == "tool_calls"
    messages += [message, {"role": "tool", "tool_call_id": call.id, "name": "weather", "content": "sunny"}]
    second = litellm.completion(model, messages, tools=[TOOL], **options)
    assert second.choices[0].message.content == "It is sunny in Paris."


def test_tool_loops() -> None:
    _loop("openai/auto", "the weather for litellm!", OPENAI)
    _loop("openai/auto", "the weather for litellm stream!", OPENAI, stream=True)
    _loop("anthropic/claude-sonnet-5-5", "the weather for litellm anthropic!", ANTHROPIC)


def test_anthropics_side() -> None:
    answer = litellm.completion("anthropic/claude-sonnet-5-5", say("hello"), **ANTHROPIC)
    assert answer.choices[0].message.content == "Hello from small" and answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 3)
    chunks = list(litellm.completion("anthropic/claude-sonnet-5-5", say("hello"), stream=True, **ANTHROPIC))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello from small"
    thought = litellm.completion("anthropic/claude-sonnet-5-5", say("think"), **ANTHROPIC)
    assert thought.choices[0].message.reasoning_content == "let me see"


def test_responses() -> None:
    answer = litellm.responses(model="openai/auto", input="hello", **OPENAI)
    assert answer.output[-1].content[0].text == "Hello from small"
    events = list(litellm.responses(model="openai/auto", input="hello", stream=True, **OPENAI))
    assert events[-1].type == "response.completed"


def test_text_completions() -> None:
    answer = litellm.text_completion(model="text-completion-openai/auto", prompt="Once", **OPENAI)
    assert answer.choices[0].text == "Hello from small"
    chunks = litellm.text_completion(model="text-completion-openai/auto", prompt="Once", stream=True, **OPENAI)
    assert "".join(chunk.choices[0].text or "" for chunk in chunks) == "Hello from small"


def test_embeddings() -> None:
    options = {**OPENAI, "timeout": 60}
    for more in ({}, {"encoding_format": "float"}):
        answer = litellm.embedding("openai/auto", ["hello", "world"], **more, **options)
        assert [len(one["embedding"]) for one in answer.data] == [384, 384]


def _raised(kind: type[Exception], model: str, **fields: Any) -> Any:
    try:
        answer = litellm.completion(f"openai/{model}", say("hello"), **{**OPENAI, **fields})
        list(answer if fields.get("stream") else ())
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def test_errors() -> None:
    assert "8192" in str(_raised(litellm.ContextWindowExceededError, "too-long"))
    _raised(litellm.ContextWindowExceededError, "too-long", stream=True)
    _raised(litellm.RateLimitError, "busy")
    _raised(litellm.NotFoundError, "nobody")
    _raised(litellm.AuthenticationError, "auto", api_key="sk-wrong")
    _raised(litellm.Timeout, "silent", timeout=0.3)
    _raised(litellm.BadRequestError, "auto", temperature=99)
    _raised(litellm.ServiceUnavailableError, "down")
    _raised(litellm.exceptions.MidStreamFallbackError, "breaking", stream=True)
