"""LlamaIndex's OpenAILike: completions, chats and tools."""

from __future__ import annotations

from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel
from run import BASE, KEY


class Place(BaseModel):
    """A place on the map."""

    city: str
    population: int


PLACE = Place(city="Paris", population=2100000)


def model(**fields: Any) -> OpenAILike:
    fields = {"is_chat_model": True, "is_function_calling_model": True, "context_window": 8192, **fields}
    return OpenAILike(model="auto", api_base=BASE, api_key=KEY, max_retries=0, timeout=20, **fields)


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def test_complete() -> None:
    for is_chat in (True, False):
        llm = model(is_chat_model=is_chat)
        assert llm.complete("hello").text == "Hello from small", is_chat
        *_, last = llm.stream_complete("hello")
        assert last.text == "Hello from small", is_chat


def test_chat() -> None:
    answer = model().chat([ChatMessage(role="system", content="Be brief."), user("hello")])
    assert answer.message.content == "Hello from small"
    assert answer.raw.usage.total_tokens == 14
    pieces = list(model().stream_chat([user("something hard")]))
    assert "".join(piece.delta or "" for piece in pieces) == "the hard answer" == pieces[-1].message.content


async def test_async() -> None:
    assert (await model().achat([user("hello")])).message.content == "Hello from small"
    pieces = [piece async for piece in await model().astream_chat([user("hello")])]
    assert pieces[-1].message.content == "Hello from small"


def test_a_tool_loop() -> None:
    asked: list[str] = []

    def weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return "sunny"

    tool = FunctionTool.from_defaults(weather)
    for name, stream in (("llama-index", False), ("llama-index stream", True)):
        asked.clear()
        messages = [user(f"the weather for {name}!")]
        if stream:
            *_, first = model().stream_chat_with_tools([tool], chat_history=messages)
        else:
            first = model().chat_with_tools([tool], chat_history=messages)
        (call,) = model().get_tool_calls_from_response(first)
        assert (call.tool_name, call.tool_kwargs) == ("weather", {"city": "Paris"}), name
        result = tool(**call.tool_kwargs).content
        messages += [
            first.message,
            ChatMessage(role="tool", content=result, additional_kwargs={"tool_call_id": call.tool_id}),
        ]
        second = model().chat_with_tools([tool], chat_history=messages)
        assert (second.message.content, asked) == ("It is sunny in Paris.", ["Paris"]), name


def test_structured_answers() -> None:
    assert model().as_structured_llm(Place).complete("a place by a tool").raw == PLACE
    with_schema = model(should_use_structured_outputs=True)
    assert with_schema.as_structured_llm(Place).complete("a place").raw == PLACE
