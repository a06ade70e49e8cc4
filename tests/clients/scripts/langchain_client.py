"""LangChain's langchain-openai, over chats and over responses."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import os
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel
from run import BASE, KEY

litellm = importlib.util.find_spec("litellm")  # has the file that tiktoken would fetch
assert litellm is not None and litellm.origin is not None
os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(litellm.origin).parent / "litellm_core_utils" / "tokenizers")
OPTIONS: dict[str, Any] = {"base_url": BASE, "api_key": KEY, "max_retries": 0, "timeout": 60}


class Place(BaseModel):
    """A place on the map."""

    city: str
    population: int


PLACE = Place(city="Paris", population=2100000)


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def chat(**fields: Any) -> ChatOpenAI:
    return ChatOpenAI(model="auto", **OPTIONS, **fields)


def test_invoke() -> None:
    answer = chat(temperature=0).invoke([SystemMessage("Be brief."), HumanMessage("hello")])
    assert answer.content == "Hello from small" and answer.response_metadata["model_name"] == "small"
    assert answer.usage_metadata is not None
    assert (answer.usage_metadata["input_tokens"], answer.usage_metadata["output_tokens"]) == (11, 3)
    assert answer.response_metadata["finish_reason"] == "stop"


def test_logprobs() -> None:
    answer = chat(logprobs=True).invoke("hello")
    assert [token["token"] for token in answer.response_metadata["logprobs"]["content"]] == ["Hello", " from", " small"]


def test_stream() -> None:
    chunks = list(chat(stream_usage=True).stream("hello"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.text == "Hello from small" and len([chunk for chunk in chunks if chunk.text]) == 3
    assert whole.usage_metadata is not None and whole.usage_metadata["total_tokens"] == 14
    assert whole.response_metadata["finish_reason"] == "stop"


async def test_async() -> None:
    model = chat()
    one, other = await asyncio.gather(model.ainvoke("hello"), model.ainvoke("something hard"))
    assert (one.content, other.content) == ("Hello from small", "the hard answer")
    assert "".join([chunk.text async for chunk in model.astream("hello")]) == "Hello from small"


def test_batches() -> None:
    assert [answer.content for answer in chat().batch(["hello", "something hard"])] == [
        "Hello from small",
        "the hard answer",
    ]


def test_structured_output() -> None:
    for method, question in (
        ("json_schema", "a place"),
        ("function_calling", "a place by a tool"),
        ("json_mode", "a place as JSON"),
    ):
        assert chat().with_structured_output(Place, method=method).invoke(question) == PLACE, method
    raw = chat().with_structured_output(Place, method="json_schema", include_raw=True).invoke("a place")
    assert raw["parsed"] == PLACE and raw["parsing_error"] is None
    last = list(chat().with_structured_output(Place, method="json_schema").stream("a place"))[-1]
    assert last == PLACE


def _loop(model: ChatOpenAI, question: str) -> BaseMessage:
    with_tools = model.bind_tools([weather], parallel_tool_calls=False)
    messages: list[BaseMessage] = [HumanMessage(question)]
    first = with_tools.invoke(messages)
    assert isinstance(first, AIMessage)
    assert [(call["name"], call["args"]) for call in first.tool_calls] == [("weather", {"city": "Paris"})]
    messages += [first, weather.invoke(first.tool_calls[0])]
    return with_tools.invoke(messages)


def test_a_tool_loop() -> None:
    assert _loop(chat(), "the weather for langchain!").text == "It is sunny in Paris."


def test_a_tool_loop_that_is_streamed() -> None:
    assert _loop(chat(streaming=True), "the weather for langchain stream!").text == "It is sunny in Paris."


def test_a_tool_loop_over_responses() -> None:
    model = chat(use_responses_api=True)
    assert _loop(model, "the weather for langchain responses!").text == "It is sunny in Paris."


def test_responses() -> None:
    model = chat(use_responses_api=True)
    answer = model.invoke("hello")
    assert answer.text == "Hello from small" and answer.response_metadata["id"].startswith("resp_")
    assert answer.usage_metadata is not None and answer.usage_metadata["total_tokens"] == 14
    chunks = list(model.stream("hello"))
    assert "".join(chunk.text for chunk in chunks) == "Hello from small"
    assert model.with_structured_output(Place, method="json_schema").invoke("a place") == PLACE
    thought = chat(use_responses_api=True, reasoning={"effort": "low", "summary": "auto"}).invoke("think")
    assert thought.text == "So it is"
    assert [block["type"] for block in thought.content] == ["reasoning", "text"]


def test_responses_that_go_on_from_the_last_one() -> None:
    model = chat(use_responses_api=True, use_previous_response_id=True)
    first = model.invoke("hello")
    second = model.invoke([HumanMessage("hello"), first, HumanMessage("a place")])
    assert "Paris" in second.text


def test_embeddings() -> None:
    embeddings = OpenAIEmbeddings(model="auto", **OPTIONS)  # sends tokens, not text
    texts = ["How do I reset my password?", "I forgot my login.", "Bread is baked."]
    vectors = embeddings.embed_documents(texts)
    assert [len(vector) for vector in vectors] == [384] * 3
    plain = OpenAIEmbeddings(model="auto", check_embedding_ctx_length=False, **OPTIONS).embed_documents(texts)
    for tokens, text in zip(vectors, plain, strict=True):
        assert math.isclose(sum(a * b for a, b in zip(tokens, text, strict=True)), 1, abs_tol=1e-3)
    assert len(embeddings.embed_query("hello")) == 384
