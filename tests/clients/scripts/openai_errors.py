"""OpenAI's own package: which exception a failure becomes, what it tries again, and how it goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import httpx2
import openai
from run import BASE, KEY

OPTIONS: dict[str, Any] = {"base_url": BASE, "api_key": KEY, "timeout": 20}
client = openai.OpenAI(**OPTIONS, max_retries=0)
E = TypeVar("E", bound=Exception)
HELLO: Any = [{"role": "user", "content": "hello"}]


def raised(kind: type[E], call: Callable[..., Any], **fields: Any) -> E:
    try:
        call(**fields)
    except kind as error:
        assert type(error) is kind, repr(error)
        return error
    raise AssertionError(f"no {kind.__name__}")


def chat(model: str = "auto", messages: Any = HELLO, **fields: Any) -> Any:
    return client.chat.completions.create(model=model, messages=messages, **fields)


def test_what_was_asked_wrongly() -> None:
    error = raised(openai.BadRequestError, chat, temperature="hot")
    assert (error.status_code, error.param, error.type) == (400, "temperature", "invalid_request_error")
    assert "temperature" in error.message and error.request_id
    assert raised(openai.BadRequestError, chat, messages=[]).param == "messages"
    assert raised(openai.BadRequestError, chat, messages=[{"role": "nobody"}]).param == "messages[0].role"
    assert raised(openai.BadRequestError, client.responses.create, model="auto", input=5).param == "input"
    assert raised(openai.BadRequestError, client.completions.create, model="auto", prompt={}).param == "prompt"
    assert raised(openai.BadRequestError, client.embeddings.create, model="auto", input="").param == "input"


def test_a_wrong_key() -> None:
    with openai.OpenAI(**{**OPTIONS, "api_key": "sk-wrong-secret"}) as other:
        for call in (
            lambda: other.chat.completions.create(model="auto", messages=HELLO),
            lambda: other.chat.completions.create(model="auto", messages=HELLO, stream=True),
            lambda: other.models.list(),
            lambda: other.responses.create(model="auto", input="hello"),
        ):
            error = raised(openai.AuthenticationError, call)
            assert (error.status_code, error.code) == (401, "invalid_api_key")
            assert "sk-wrong-secret" not in str(error)


def test_an_upstreams_key_is_not_the_clients() -> None:
    error = raised(openai.InternalServerError, chat, model="no-key")
    assert error.status_code == 502 and "sk-secret" not in str(error)


def test_what_is_not_there() -> None:
    error = raised(openai.NotFoundError, chat, model="nobody")
    assert (error.code, error.param) == ("model_not_found", "model")
    assert raised(openai.NotFoundError, client.models.retrieve, model="nobody").code == "model_not_found"
    assert raised(openai.NotFoundError, client.batches.list).body["message"]  # type: ignore[index]
    assert raised(openai.NotFoundError, client.files.retrieve, file_id="file-nobody").param == "file_id"
    jobs = client.fine_tuning.jobs
    assert raised(openai.NotFoundError, jobs.retrieve, fine_tuning_job_id="ftjob-x").status_code == 404
    assert raised(openai.NotFoundError, client.responses.retrieve, response_id="resp_nobody").status_code == 404


def test_too_long() -> None:
    error = raised(openai.BadRequestError, chat, model="too-long")
    assert (error.code, error.param) == ("context_length_exceeded", "messages")
    assert "maximum context length is 8192" in error.message
    assert raised(openai.BadRequestError, chat, model="too-long", stream=True).code == "context_length_exceeded"


def test_busy() -> None:
    error = raised(openai.RateLimitError, chat, model="busy")
    assert error.code == "rate_limit_exceeded" and error.response.headers["retry-after"] == "0"
    assert error.response.headers["retry-after-ms"] == "10"


def test_it_tries_again_when_told_so() -> None:
    with openai.OpenAI(**OPTIONS, max_retries=2) as patient:
        raw = patient.chat.completions.with_raw_response.create(model="once-busy", messages=HELLO)
    assert raw.retries_taken == 1 and raw.parse().choices[0].message.content == "at last"


def test_it_does_not_try_again_when_told_so() -> None:
    with openai.OpenAI(**OPTIONS, max_retries=2) as patient:  # a second time it would be answered
        error = raised(openai.InternalServerError, patient.chat.completions.create, model="once-down", messages=HELLO)
    assert error.status_code == 503 and error.response.headers["x-should-retry"] == "false"


def test_a_stream_that_breaks_off() -> None:
    for text in ("error", "cut"):
        heard: list[str] = []
        try:
            for chunk in chat("breaking", [{"role": "user", "content": text}], stream=True):
                heard.append(chunk.choices[0].delta.content or "")
        except (openai.APIError, httpx2.TransportError) as error:
            assert isinstance(error, openai.APIError), repr(error)
            assert not isinstance(error, openai.APIStatusError) and error.message
            assert "".join(heard) == "one two"
        else:
            raise AssertionError("it took it for an end")


def test_a_whole_answer_that_breaks_off() -> None:
    assert raised(openai.InternalServerError, chat, model="breaking").status_code in (502, 503)


def test_impatience() -> None:
    raised(openai.APITimeoutError, chat, model="silent", timeout=0.3)
    raised(openai.APITimeoutError, chat, model="silent", timeout=0.3, stream=True)
    error = raised(openai.InternalServerError, chat, model="silent", extra_headers={"x-gateway-deadline-s": "0.3"})
    assert error.status_code == 504


def test_going_away() -> None:
    stream = chat("slow", stream=True)
    said = [next(stream).choices[0].delta.content, next(stream).choices[0].delta.content]
    stream.close()
    assert "".join(word or "" for word in said) == "one"


async def test_going_away_asynchronously() -> None:
    async with openai.AsyncOpenAI(**OPTIONS, max_retries=0) as own:
        waiting = asyncio.create_task(own.chat.completions.create(model="silent", messages=HELLO))
        _, pending = await asyncio.wait([waiting], timeout=0.3)
        assert pending
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        stream = await own.chat.completions.create(model="slow", messages=HELLO, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
