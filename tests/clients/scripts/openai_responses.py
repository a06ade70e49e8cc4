"""OpenAI's own package: the Responses API, stored conversations and tools."""

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
TOOL: Any = {
    "type": "function",
    "name": "weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def test_whole() -> None:
    response = client.responses.create(model="auto", instructions="Be brief.", input="hello", metadata={"team": "a"})
    assert (response.object, response.status, response.model) == ("response", "completed", "small")
    assert response.output_text == "Hello from small" and response.error is None
    assert (response.instructions, response.metadata) == ("Be brief.", {"team": "a"})
    usage = response.usage
    assert usage is not None and (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (11, 3, 14)
    assert usage.input_tokens_details.cached_tokens == 0 and usage.output_tokens_details.reasoning_tokens == 0
    assert response._request_id


def test_streamed() -> None:
    events = list(client.responses.create(model="auto", input="hello", stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    said = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(said) == "Hello from small" and events[-1].response.output_text == "Hello from small"


def test_parse() -> None:
    response = client.responses.parse(model="auto", input="a place", text_format=Place)
    assert response.output_parsed == PLACE


def test_the_stream_helper() -> None:
    with client.responses.stream(model="auto", input="a place", text_format=Place) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert "response.output_text.delta" in kinds and final.output_parsed == PLACE


def _result_of(call: Any) -> Any:
    assert call.type == "function_call" and call.name == "weather" and json.loads(call.arguments) == {"city": "Paris"}
    return {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}


def test_a_tool_loop_over_a_stored_response() -> None:
    first = client.responses.create(model="auto", input="the weather for responses!", tools=[TOOL])
    second = client.responses.create(
        model="auto", previous_response_id=first.id, input=[_result_of(first.output[-1])], tools=[TOOL]
    )
    assert second.output_text == "It is sunny in Paris." and second.previous_response_id == first.id


def test_a_tool_loop_that_is_streamed_and_replayed() -> None:
    asked: list[Any] = [{"role": "user", "content": "the weather for responses stream!"}]
    with client.responses.stream(
        model="auto", input=asked, tools=[TOOL], store=False, include=["reasoning.encrypted_content"]
    ) as stream:
        events = list(stream)
        first = stream.get_final_response()
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert json.loads("".join(deltas)) == {"city": "Paris"}
    replayed = [item.to_dict() for item in first.output]
    second = client.responses.create(
        model="auto", input=[*asked, *replayed, _result_of(first.output[-1])], tools=[TOOL], store=False
    )
    assert second.output_text == "It is sunny in Paris."


def test_a_stored_conversation() -> None:
    first = client.responses.create(model="auto", input="hello")
    second = client.responses.create(model="auto", input="a place", previous_response_id=first.id)
    again = client.responses.retrieve(second.id)
    assert again.output_text == second.output_text and again.previous_response_id == first.id
    items = list(client.responses.input_items.list(second.id, order="asc"))
    assert [item.to_dict()["role"] for item in items] == ["user", "assistant", "user"]
    client.responses.delete(second.id)
    for attempt in (client.responses.retrieve, client.responses.delete):
        try:
            attempt(second.id)
        except openai.NotFoundError:
            continue
        raise AssertionError("it is still there")
    try:
        client.responses.create(model="auto", input="and?", previous_response_id=second.id)
    except openai.BadRequestError as error:
        assert (error.code, error.param) == ("previous_response_not_found", "previous_response_id")
    else:
        raise AssertionError("no error")


def test_counting() -> None:
    assert client.responses.input_tokens.count(model="auto", input="hello").input_tokens > 0


def test_reasoning() -> None:
    response = client.responses.create(model="auto", input="think", reasoning={"effort": "low", "summary": "auto"})
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output_text == "So it is"


def test_an_answer_that_breaks_off() -> None:
    for text in ("error", "cut"):
        events = list(client.responses.create(model="breaking", input=text, stream=True))
        assert events[-1].type == "response.failed" and events[-1].response.error is not None
        assert events[-1].response.status == "failed"


async def test_async() -> None:
    async with openai.AsyncOpenAI(**OPTIONS) as own:
        assert (await own.responses.create(model="auto", input="hello")).output_text == "Hello from small"
        stream = await own.responses.create(model="auto", input="hello", stream=True)
        assert [event.type async for event in stream][-1] == "response.completed"
        async with own.responses.stream(model="auto", input="a place", text_format=Place) as helper:
            assert (await helper.get_final_response()).output_parsed == PLACE
        parsed = await own.responses.parse(model="auto", input="a place", text_format=Place)
        assert parsed.output_parsed == PLACE
