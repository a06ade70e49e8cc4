"""Anthropic's own package, the newest: chats, streams and tools over the Messages API."""

from __future__ import annotations

from typing import Any

import anthropic
from run import KEY, URL

client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0, timeout=20)
TOOL: Any = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


def say(text: str) -> dict[str, Any]:
    return {"model": "claude-sonnet-5-5", "max_tokens": 100, "messages": [{"role": "user", "content": text}]}


def test_whole_and_streamed() -> None:
    message = client.messages.create(**say("hello"), system="Be brief.")
    assert message.content[0].to_dict()["text"] == "Hello from small" and message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (11, 3)
    with client.messages.stream(**say("something hard")) as stream:
        assert "".join(stream.text_stream) == "the hard answer"
        assert stream.get_final_message().model == "large"


def test_a_tool_loop() -> None:
    asked = say("the weather for anthropic!")
    first = client.messages.create(**asked, tools=[TOOL])
    call = first.content[-1]
    assert first.stop_reason == "tool_use" and call.type == "tool_use" and call.input == {"city": "Paris"}
    asked["messages"] += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]},
    ]
    second = client.messages.create(**asked, tools=[TOOL])
    assert second.content[0].to_dict()["text"] == "It is sunny in Paris."


def test_a_wrong_key() -> None:
    with anthropic.Anthropic(base_url=URL, api_key="sk-wrong", max_retries=0) as other:
        try:
            other.messages.create(**say("hello"))
        except anthropic.AuthenticationError as error:
            assert error.body["error"]["type"] == "authentication_error"  # type: ignore[index]
        else:
            raise AssertionError("no error")


def test_models_and_counting() -> None:
    assert "claude-sonnet-5-5" in [model.id for model in client.models.list()]
    counted = client.messages.count_tokens(model="auto", messages=say("hello")["messages"])
    assert counted.input_tokens > 0
