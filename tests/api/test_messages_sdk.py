"""Anthropic's own SDK against `gateway serve`, over a real socket."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.messages_shaped import TOOL, claude_code
from tests.test_serve import Served, start_serving, stop

if TYPE_CHECKING:
    import anthropic

MODELS = """
models:
  small:
    engine: scripted
    replies:
      - {when: {contains: weather}, text: I look., tool_calls: [{name: weather, arguments: {city: Paris}}]}
      - {when: {contains: think}, reasoning: let me see, text: done}
      - {when: {contains: hard}, text: "I'm sorry, I can't do that."}
      - {when: {contains: busy}, error: {status: 429, message: slow down, headers: {retry-after: "7"}}}
      - {when: {contains: broken}, text: one two three, cut_after: 3}
      - {text: hello from small, usage: {prompt_tokens: 20, completion_tokens: 3, total_tokens: 23}}
  large: {engine: scripted, replies: [{text: the hard answer}]}
"""
POLICY = """
policy: default
serves: [auto, claude-sonnet-5-5]
routes:
  - name: all
    answer: {cascade: [{model: small, checks: [not_refusal]}, {model: large}]}
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    globals()["anthropic"] = importlib.import_module("anthropic")  # two seconds of whoever collects this module
    folder = tmp_path_factory.mktemp("messages")
    (folder / "policies").mkdir()
    (folder / "models.yaml").write_text(MODELS)
    (folder / "policies" / "default.yaml").write_text(POLICY)
    served = start_serving(folder, folder / "home")
    yield served
    assert stop(served) == 0


@pytest.fixture
def client(served: Served) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=served.url, api_key="unused", max_retries=0) as client:
        yield client


def say(text: str, **fields: Any) -> dict[str, Any]:
    return {
        "model": "claude-sonnet-5-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": text}],
        **fields,
    }


def test_create(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**say("hello"))
    assert (message.type, message.role, message.model) == ("message", "assistant", "small")
    assert message.content[0].type == "text" and message.content[0].text == "hello from small"
    assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == ("end_turn", 20, 3)
    assert message.to_dict()["gateway"]["path"] == "small"  # type: ignore[index]


async def test_create_async_with_a_bearer_token(served: Served) -> None:
    async with anthropic.AsyncAnthropic(base_url=served.url, auth_token="unused", max_retries=0) as client:
        message = await client.messages.create(**say("something hard"))
        assert message.model == "large" and message.content[0].to_dict() == {"type": "text", "text": "the hard answer"}
        stream = await client.messages.create(**say("hello"), stream=True)
        assert [event.type async for event in stream][-1] == "message_stop"


def test_stream_with_a_tool_and_its_result(client: anthropic.Anthropic) -> None:
    asked = say("the weather?", tools=[TOOL])
    with client.messages.stream(**asked) as stream:
        words = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert words == "I look." and message.stop_reason == "tool_use"
    text, call = message.content
    assert call.type == "tool_use" and (call.name, call.input) == ("weather", {"city": "Paris"})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    answer = client.messages.create(
        **{
            **asked,
            "messages": [
                *asked["messages"],
                {"role": "assistant", "content": [block.to_dict() for block in message.content]},
                {"role": "user", "content": [result, {"type": "text", "text": "so?"}]},
            ],
        }
    )
    assert answer.content[0].type == "text" and answer.content[0].text == "hello from small"


def test_stream_with_thinking(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**say("think")) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    assert {"thinking", "text", "content_block_stop", "message_stop"} <= set(kinds)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0


def test_a_draft_that_was_dropped_is_not_in_the_stream(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**say("something hard")) as stream:
        message = stream.get_final_message()
    assert (message.model, stream.get_final_text()) == ("large", "the hard answer")


def test_claude_codes_request(client: anthropic.Anthropic) -> None:
    with client.messages.stream(
        **{name: value for name, value in claude_code().items() if name not in ("stream", "context_management")},
        extra_body={"context_management": claude_code()["context_management"]},
    ) as stream:
        assert stream.get_final_text() == "hello from small"
        assert stream.response.headers["x-gateway-policy"] == "default"


def test_beta_messages(client: anthropic.Anthropic) -> None:
    message = client.beta.messages.create(**say("hello"), betas=["context-management-2025-06-27"])
    assert message.content[0].to_dict()["text"] == "hello from small"


def test_count_tokens(client: anthropic.Anthropic) -> None:
    asked = say("hello")
    del asked["max_tokens"]
    few = client.messages.count_tokens(**asked)
    many = client.messages.count_tokens(**asked, system="be brief " * 100, tools=[TOOL])  # type: ignore[list-item]
    assert 0 < few.input_tokens < 20 and many.input_tokens > 100


def test_models(client: anthropic.Anthropic) -> None:
    names = [model.id for model in client.models.list(limit=2)]
    assert {"claude-sonnet-5-5", "default", "small", "large"} <= set(names) and len(names) == len(set(names))
    assert client.models.retrieve("claude-sonnet-5-5").display_name == "claude-sonnet-5-5"


def test_errors_are_the_sdks_own(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as bad:
        client.messages.create(**say("hello", tools=[TOOL], tool_choice={"type": "all"}))
    assert bad.value.type == "invalid_request_error"
    assert str(bad.value.api_message).startswith("tool_choice.type: ")
    with pytest.raises(anthropic.NotFoundError, match="claude-9"):
        client.messages.create(**say("hello", model="claude-9"))
    with pytest.raises(anthropic.RateLimitError, match="slow down") as busy:
        client.messages.create(**say("busy", model="small"))
    assert busy.value.response.headers["retry-after"] == "7"
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("nope")


def test_a_stream_that_breaks_is_an_error(client: anthropic.Anthropic) -> None:
    with (
        pytest.raises(anthropic.APIStatusError) as cut,
        client.messages.stream(**say("broken", model="small")) as stream,
    ):
        stream.until_done()
    assert cut.value.type == "api_error"
