"""OpenAI's Agents SDK: tool loops over responses and over chats."""

from __future__ import annotations

import json
from typing import Any

import openai
from agents import (
    Agent,
    ItemHelpers,
    Model,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    WebSearchTool,
    function_tool,
    set_tracing_disabled,
)
from openai.types.shared import Reasoning
from pydantic import BaseModel
from run import BASE, KEY

set_tracing_disabled(True)
asked: list[str] = []


class Place(BaseModel):
    city: str
    population: int


PLACE = Place(city="Paris", population=2100000)


@function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    asked.append(city)
    return "sunny"


def client() -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=BASE, api_key=KEY, max_retries=0, timeout=20)


def models(over: openai.AsyncOpenAI) -> list[Model]:
    return [
        OpenAIResponsesModel(model="auto", openai_client=over),
        OpenAIChatCompletionsModel(model="auto", openai_client=over),
    ]


async def test_run() -> None:
    async with client() as over:
        for model in models(over):
            result = await Runner.run(Agent(name="a", instructions="Be brief.", model=model), "hello")
            assert result.final_output == "Hello from small"
            usage = result.context_wrapper.usage
            assert (usage.requests, usage.input_tokens, usage.output_tokens) == (1, 11, 3)


async def test_a_tool_loop() -> None:
    async with client() as over:
        for model, name in zip(models(over), ("agents", "agents chat"), strict=True):
            asked.clear()
            result = await Runner.run(Agent(name="a", model=model, tools=[weather]), f"the weather for {name}!")
            assert (result.final_output, asked) == ("It is sunny in Paris.", ["Paris"]), name
            more = await Runner.run(
                Agent(name="a", model=model), [*result.to_input_list(), {"role": "user", "content": "hello"}]
            )
            assert more.final_output == "Hello from small"


def _said(event: Any) -> str:
    """What a raw event of either API adds to the text."""
    if event.type != "raw_response_event" or event.data.type != "response.output_text.delta":
        return ""
    return str(event.data.delta)


async def test_a_tool_loop_that_is_streamed() -> None:
    async with client() as over:
        for model, name in zip(models(over), ("agents stream", "agents chat stream"), strict=True):
            asked.clear()
            result = Runner.run_streamed(Agent(name="a", model=model, tools=[weather]), f"the weather for {name}!")
            events = [event async for event in result.stream_events()]
            said = "".join(_said(event) for event in events)
            assert (said, result.final_output, asked) == (result.final_output, "It is sunny in Paris.", ["Paris"]), name
            items = [event.item.type for event in events if event.type == "run_item_stream_event"]
            assert items == ["tool_call_item", "tool_call_output_item", "message_output_item"], name


async def test_a_handoff() -> None:
    async with client() as over:
        model = models(over)[0]
        expert = Agent(name="expert", model=model)
        result = await Runner.run(Agent(name="a", model=model, handoffs=[expert]), "hand me over")
    assert (result.final_output, result.last_agent.name) == ("Expert here", "expert")


async def test_a_session() -> None:
    session = SQLiteSession("one")
    async with client() as over:
        for model in models(over):
            await Runner.run(Agent(name="a", model=model), "hello", session=session)
            result = await Runner.run(Agent(name="a", model=model), "something hard", session=session)
            assert result.final_output == "the hard answer"
    assert [item["role"] for item in await session.get_items()] == ["user", "assistant"] * 4  # type: ignore[typeddict-item]


async def test_a_tool_that_the_gateway_does_not_have() -> None:
    async with client() as over:
        agent = Agent(name="a", model=models(over)[0], tools=[WebSearchTool(), weather])
        assert (await Runner.run(agent, "hello")).final_output == "Hello from small"


async def test_reasoning_that_is_sent_back() -> None:
    settings = ModelSettings(
        store=False, reasoning=Reasoning(effort="low", summary="auto"), response_include=["reasoning.encrypted_content"]
    )
    async with client() as over:
        asked.clear()
        agent = Agent(name="a", model=models(over)[0], tools=[weather], model_settings=settings)
        result = await Runner.run(agent, "think hard")
    assert (result.final_output, asked) == ("So it is", ["Paris"])
    assert [item.type for item in result.new_items] == [
        "reasoning_item",
        "tool_call_item",
        "tool_call_output_item",
        "reasoning_item",
        "message_output_item",
    ]


async def test_an_output_type() -> None:
    async with client() as over:
        for model in models(over):
            result = await Runner.run(Agent(name="a", model=model, output_type=Place), "a place")
            assert result.final_output == PLACE
            assert json.loads(ItemHelpers.text_message_outputs(result.new_items)) == PLACE.model_dump()


async def test_handing_the_conversation_on() -> None:
    async with client() as over:
        first = await Runner.run(Agent(name="a", model=models(over)[0]), "hello")
        second = await Runner.run(
            Agent(name="a", model=models(over)[0]), "something hard", previous_response_id=first.last_response_id
        )
    assert second.final_output == "the hard answer"
