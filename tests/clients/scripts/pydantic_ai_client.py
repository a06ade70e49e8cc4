"""pydantic-ai: agents with tools and typed answers, over chats and over responses."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import TextPart, ThinkingPart
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.providers.openai import OpenAIProvider
from run import BASE, KEY


class Place(BaseModel):
    city: str
    population: int


PLACE = Place(city="Paris", population=2100000)
asked: list[str] = []


def weather(city: str) -> str:
    """The weather of a city."""
    asked.append(city)
    return "sunny"


def chat(name: str = "auto") -> OpenAIChatModel:
    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=BASE, api_key=KEY))


def responses(name: str = "auto") -> OpenAIResponsesModel:
    return OpenAIResponsesModel(name, provider=OpenAIProvider(base_url=BASE, api_key=KEY))


async def test_run() -> None:
    for model in (chat(), responses()):
        result = await Agent(model, instructions="Be brief.").run("hello")
        assert result.output == "Hello from small"
        assert (result.usage.input_tokens, result.usage.output_tokens) == (11, 3), model


async def test_a_tool_loop() -> None:
    for model, name in ((chat(), "pydantic-ai"), (responses(), "pydantic-ai responses")):
        asked.clear()
        result = await Agent(model, tools=[weather]).run(f"the weather for {name}!")
        assert (result.output, asked) == ("It is sunny in Paris.", ["Paris"]), name
        more = await Agent(model, tools=[weather]).run("hello", message_history=result.all_messages())
        assert more.output == "Hello from small"


async def test_a_tool_loop_that_is_streamed() -> None:
    for model, name in ((chat(), "pydantic-ai stream"), (responses(), "pydantic-ai responses stream")):
        asked.clear()
        async with Agent(model, tools=[weather]).run_stream(f"the weather for {name}!") as result:
            said = [text async for text in result.stream_text(delta=True, debounce_by=None)]
        assert ("".join(said), asked) == ("It is sunny in Paris.", ["Paris"]), name
        assert result.usage.output_tokens > 0


async def test_output_types() -> None:
    types: list[tuple[Any, str]] = [
        (Place, "a final result"),
        (NativeOutput(Place), "a place"),
        (PromptedOutput(Place), "a place"),
    ]
    for model in (chat(), responses()):
        for output_type, question in types:
            result = await Agent(model, output_type=output_type).run(question)
            assert result.output == PLACE, (model, output_type)
            async with Agent(model, output_type=output_type).run_stream(question) as stream:
                assert await stream.get_output() == PLACE, (model, output_type)


async def test_reasoning() -> None:
    settings = OpenAIResponsesModelSettings(openai_reasoning_effort="low", openai_reasoning_summary="auto")
    for agent in (Agent(chat()), Agent(responses(), model_settings=settings)):
        result = await agent.run("think")
        parts = result.response.parts
        assert [type(part) for part in parts] == [ThinkingPart, TextPart], agent.model
        assert (parts[0].content, result.output) == ("let me see", "So it is")  # type: ignore[union-attr]
        more = await agent.run("hello", message_history=result.all_messages())
        assert more.output == "Hello from small"


async def test_stored_responses() -> None:
    agent = Agent(responses())
    first = await agent.run("hello")
    settings = OpenAIResponsesModelSettings(openai_previous_response_id="auto")
    second = await agent.run("something hard", message_history=first.all_messages(), model_settings=settings)
    assert second.output == "the hard answer"


async def test_an_error() -> None:
    for model in (chat("nobody"), responses("nobody")):
        try:
            await Agent(model).run("hello")
        except ModelHTTPError as error:
            assert error.status_code == 404 and error.body["code"] == "model_not_found"  # type: ignore[index]
        else:
            raise AssertionError("no error")
