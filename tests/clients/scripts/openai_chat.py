"""OpenAI's own package: chats, whole and streamed, with schemas and tools."""

from __future__ import annotations

import json
from typing import Any

import openai
from pydantic import BaseModel
from run import BASE, KEY

OPTIONS: dict[str, Any] = {"base_url": BASE, "api_key": KEY, "max_retries": 0, "timeout": 20}
client = openai.OpenAI(**OPTIONS)


class Place(BaseModel):
    city: str
    population: int


class Weather(BaseModel):
    """The weather of a city."""

    city: str


PLACE = Place(city="Paris", population=2100000)
TOOL = openai.pydantic_function_tool(Weather, name="weather")


def say(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_whole() -> None:
    answer = client.chat.completions.create(model="auto", messages=say("hello"), logprobs=True, top_logprobs=2)
    choice = answer.choices[0]
    assert (answer.object, answer.model, answer.id[:9]) == ("chat.completion", "small", "chatcmpl-")
    assert (choice.message.role, choice.message.content, choice.finish_reason) == (
        "assistant",
        "Hello from small",
        "stop",
    )
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert [token.token for token in choice.logprobs.content] == ["Hello", " from", " small"]
    usage = answer.usage
    assert usage is not None and (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (11, 3, 14)
    assert answer._request_id and answer.to_dict()["gateway"]["path"] == "small"


def test_streamed() -> None:
    stream = client.chat.completions.create(
        model="auto", messages=say("hello"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    *told, last = chunks
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1
    assert "".join(chunk.choices[0].delta.content or "" for chunk in told) == "Hello from small"
    assert told[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in told][-1] == "stop"
    assert [chunk.choices[0].finish_reason for chunk in told[:-1]] == [None] * (len(told) - 1)
    assert last.choices == [] and last.usage is not None and last.usage.total_tokens == 14


def test_no_usage_that_was_not_asked_for() -> None:
    chunks = list(client.chat.completions.create(model="auto", messages=say("hello"), stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_several_choices() -> None:
    answer = client.chat.completions.create(model="auto", messages=say("hello"), n=2)
    assert [(choice.index, choice.message.content) for choice in answer.choices] == [
        (0, "Hello from small"),
        (1, "Hello from small"),
    ]
    said = {0: "", 1: ""}
    for chunk in client.chat.completions.create(model="auto", messages=say("hello"), n=2, stream=True):
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
    assert said == {0: "Hello from small", 1: "Hello from small"}


def test_a_refusal_goes_on_to_the_next_model() -> None:
    answer = client.chat.completions.create(model="auto", messages=say("something hard"))
    assert (answer.model, answer.choices[0].message.content) == ("large", "the hard answer")
    chunks = list(client.chat.completions.create(model="auto", messages=say("something hard"), stream=True))
    assert {chunk.model for chunk in chunks} == {"large"}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "the hard answer"


def test_parse() -> None:
    answer = client.chat.completions.parse(model="auto", messages=say("a place"), response_format=Place)
    assert answer.choices[0].message.parsed == PLACE and answer.choices[0].message.refusal is None


def test_parse_refuses_what_was_cut_short() -> None:
    try:
        client.chat.completions.parse(model="small", messages=say("a story"), response_format=Place)
    except openai.LengthFinishReasonError as error:
        assert error.completion.choices[0].message.content == "Once upon a"
    else:
        raise AssertionError("no error")


def test_the_stream_helper() -> None:
    with client.chat.completions.stream(
        model="auto", messages=say("a place"), response_format=Place, stream_options={"include_usage": True}
    ) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    kinds = [event.type for event in events]
    assert {"chunk", "content.delta", "content.done"} <= set(kinds)
    done = next(event for event in events if event.type == "content.done")
    assert done.parsed == PLACE and json.loads(done.content) == PLACE.model_dump()
    assert final.choices[0].message.parsed == PLACE and final.usage is not None and final.usage.total_tokens > 0


def test_the_stream_helper_with_a_tool() -> None:
    with client.chat.completions.stream(
        model="auto", messages=say("the weather for chat helper!"), tools=[TOOL]
    ) as stream:
        events = list(stream)
        message = stream.get_final_completion().choices[0].message
    deltas = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
    assert "".join(event.arguments_delta for event in deltas) == '{"city":"Paris"}'
    assert message.tool_calls and message.tool_calls[0].function.parsed_arguments == Weather(city="Paris")


def _result_of(call: Any) -> Any:
    assert call.type == "function" and call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    return {"role": "tool", "tool_call_id": call.id, "content": "sunny"}


def test_a_tool_loop() -> None:
    messages = say("the weather for chat!")
    first = client.chat.completions.create(model="auto", messages=messages, tools=[TOOL]).choices[0]
    assert first.finish_reason == "tool_calls" and first.message.content is None and first.message.tool_calls
    messages += [first.message, _result_of(first.message.tool_calls[0])]
    second = client.chat.completions.create(model="auto", messages=messages, tools=[TOOL]).choices[0]
    assert (second.finish_reason, second.message.content) == ("stop", "It is sunny in Paris.")


def test_a_tool_loop_that_is_streamed() -> None:
    messages = say("the weather for chat stream!")
    name, arguments, id, reasons = "", "", "", []
    for chunk in client.chat.completions.create(model="auto", messages=messages, tools=[TOOL], stream=True):
        choice = chunk.choices[0]
        reasons.append(choice.finish_reason)
        for call in choice.delta.tool_calls or []:
            assert call.index == 0 and call.function is not None
            id, name = id or call.id or "", name + (call.function.name or "")
            arguments += call.function.arguments or ""
    assert (name, json.loads(arguments), reasons[-1]) == ("weather", {"city": "Paris"}, "tool_calls")
    call = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
    messages += [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": id, "content": [{"type": "text", "text": "sunny"}]},
    ]
    second = client.chat.completions.create(model="auto", messages=messages, tools=[TOOL])
    assert second.choices[0].message.content == "It is sunny in Paris."


def test_two_calls_at_once() -> None:
    answer = client.chat.completions.create(model="auto", messages=say("two at once"), tools=[TOOL])
    calls = answer.choices[0].message.tool_calls or []
    assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Paris", "Rome"]
    assert len({call.id for call in calls}) == 2


def test_reasoning() -> None:
    answer = client.chat.completions.create(model="auto", messages=say("think"), reasoning_effort="low")
    assert answer.choices[0].message.to_dict()["reasoning_content"] == "let me see"
    assert answer.choices[0].message.content == "So it is"


async def test_async() -> None:
    async with openai.AsyncOpenAI(**OPTIONS) as own:
        answer = await own.chat.completions.create(model="auto", messages=say("hello"))
        assert answer.choices[0].message.content == "Hello from small"
        stream = await own.chat.completions.create(model="auto", messages=say("hello"), stream=True)
        said = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(said) == "Hello from small"
        async with own.chat.completions.stream(model="auto", messages=say("a place"), response_format=Place) as helper:
            assert (await helper.get_final_completion()).choices[0].message.parsed == PLACE
        parsed = await own.chat.completions.parse(model="auto", messages=say("a place"), response_format=Place)
        assert parsed.choices[0].message.parsed == PLACE


async def test_an_async_tool_loop() -> None:
    messages = say("the weather for async chat!")
    async with openai.AsyncOpenAI(**OPTIONS) as own:
        first = await own.chat.completions.create(model="auto", messages=messages, tools=[TOOL], tool_choice="auto")
        message = first.choices[0].message
        assert message.tool_calls
        messages += [message.to_dict(), _result_of(message.tool_calls[0])]
        second = await own.chat.completions.create(model="auto", messages=messages, tools=[TOOL])
        assert second.choices[0].message.content == "It is sunny in Paris."


def test_an_image_and_fields_of_all_kinds() -> None:
    content: Any = [
        {"type": "text", "text": "hello"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},
    ]
    answer = client.chat.completions.create(
        model="small",
        messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": content, "name": "ann"}],
        temperature=0,
        top_p=1,
        seed=7,
        stop=["\n"],
        max_completion_tokens=50,
        presence_penalty=0,
        frequency_penalty=0,
        logit_bias={"50256": -100},
        user="ann",
        metadata={"team": "a"},
        store=False,
        service_tier="auto",
        parallel_tool_calls=None,
        extra_body={"top_k": 40, "min_p": 0.1, "chat_template_kwargs": {"enable_thinking": False}},
        extra_headers={"x-gateway-deadline-s": "10"},
        extra_query={"api-version": "2026-01-01"},
    )
    assert answer.choices[0].message.content == "Hello from small"
