"""instructor: answers as models, by tools and by schemas."""

from __future__ import annotations

from typing import Any

import instructor
import openai
from instructor.core import InstructorRetryException
from pydantic import BaseModel
from run import BASE, KEY

OPTIONS: dict[str, Any] = {"base_url": BASE, "api_key": KEY, "max_retries": 0, "timeout": 20}


class Place(BaseModel):
    """A place on the map."""

    city: str
    population: int


PLACE = {"city": "Paris", "population": 2100000}
BY_TOOL, AS_TEXT = "a place by a tool", "a place"
Mode = instructor.Mode


def ask(client: instructor.Instructor, text: str, model: str = "auto", **fields: Any) -> Any:
    fields = {"response_model": Place, "max_retries": 0, **fields}
    return client.create(model=model, messages=[{"role": "user", "content": text}], **fields)


def test_modes() -> None:
    modes = {
        Mode.TOOLS: BY_TOOL,
        Mode.TOOLS_STRICT: BY_TOOL,
        Mode.JSON: AS_TEXT,
        Mode.JSON_SCHEMA: AS_TEXT,
        Mode.MD_JSON: AS_TEXT,
        Mode.RESPONSES_TOOLS: BY_TOOL,
    }
    for mode, text in modes.items():
        client = instructor.from_openai(openai.OpenAI(**OPTIONS), mode=mode)
        place = ask(client, text)
        assert isinstance(place, Place) and place.model_dump() == PLACE, mode


def test_the_completion_beside_the_answer() -> None:
    client = instructor.from_openai(openai.OpenAI(**OPTIONS), mode=Mode.TOOLS)
    place, completion = client.create_with_completion(
        model="auto", messages=[{"role": "user", "content": BY_TOOL}], response_model=Place
    )
    assert place.model_dump() == PLACE
    assert completion.model == "small" and completion.usage.total_tokens > 0


def test_a_stream_of_partial_answers() -> None:
    for mode, text in ((Mode.TOOLS, "a part of it"), (Mode.JSON_SCHEMA, AS_TEXT)):
        client = instructor.from_openai(openai.OpenAI(**OPTIONS), mode=mode)
        parts = list(
            client.create_partial(
                model="auto", messages=[{"role": "user", "content": text}], response_model=Place, max_retries=0
            )
        )
        assert len(parts) > 1 and parts[-1].model_dump() == PLACE, mode


async def test_async() -> None:
    client = instructor.from_openai(openai.AsyncOpenAI(**OPTIONS), mode=Mode.JSON_SCHEMA)
    place = await client.create(
        model="auto", messages=[{"role": "user", "content": AS_TEXT}], response_model=Place, max_retries=0
    )
    assert place.model_dump() == PLACE


def test_it_asks_again_when_the_answer_does_not_fit() -> None:
    client = instructor.from_openai(openai.OpenAI(**OPTIONS), mode=Mode.TOOLS)
    assert ask(client, "a misfit", "corrected", max_retries=2).model_dump() == PLACE


def test_an_error() -> None:
    client = instructor.from_openai(openai.OpenAI(**OPTIONS), mode=Mode.TOOLS)
    try:
        ask(client, "hello", "nobody")
    except InstructorRetryException as error:
        assert "nobody" in str(error)
    else:
        raise AssertionError("no error")
