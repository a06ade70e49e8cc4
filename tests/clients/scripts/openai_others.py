"""OpenAI's own package: completions, embeddings, models, raw responses."""

from __future__ import annotations

import json
import math
from typing import Any

import openai
from run import BASE, KEY, URL

OPTIONS: dict[str, Any] = {"api_key": KEY, "max_retries": 0, "timeout": 60}
client = openai.OpenAI(base_url=BASE, **OPTIONS)


def test_completions() -> None:
    answer = client.completions.create(model="auto", prompt=["Once", "Twice"], n=2, max_tokens=5)
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    assert [(choice.index, choice.text) for choice in answer.choices] == [
        (index, "Hello from small") for index in range(4)
    ]
    assert answer.usage is not None and answer.usage.total_tokens == 14


def test_completions_with_logprobs_and_echo() -> None:
    answer = client.completions.create(model="small", prompt="Once ", echo=True, logprobs=1)
    choice = answer.choices[0]
    assert choice.text == "Once Hello from small"
    assert choice.logprobs is not None and choice.logprobs.tokens and choice.logprobs.text_offset
    assert len(choice.logprobs.tokens) == len(choice.logprobs.text_offset)


def test_completions_streamed() -> None:
    chunks = list(
        client.completions.create(model="auto", prompt="Once", stream=True, stream_options={"include_usage": True})
    )
    *told, last = chunks
    assert "".join(chunk.choices[0].text for chunk in told) == "Hello from small"
    assert told[-1].choices[0].finish_reason == "stop"
    assert last.choices == [] and last.usage is not None and last.usage.total_tokens == 14


def test_completions_with_a_suffix() -> None:
    assert client.completions.create(model="auto", prompt="def f(", suffix="\n").choices[0].text == "Hello from small"


def test_embeddings() -> None:
    texts = ["How do I reset my password?", "I forgot my login.", "Bread is baked."]
    answer = client.embeddings.create(model="auto", input=texts)  # as base64, which it decodes
    vectors = [one.embedding for one in answer.data]
    assert [one.index for one in answer.data] == [0, 1, 2] and {len(vector) for vector in vectors} == {384}
    assert all(math.isclose(_dot(vector, vector), 1, abs_tol=1e-4) for vector in vectors)
    assert _dot(vectors[0], vectors[1]) > _dot(vectors[0], vectors[2]) + 0.1
    assert answer.usage.prompt_tokens > 0 and answer.model == "all-MiniLM-L6-v2"
    as_floats = client.embeddings.create(model="auto", input=texts[0], encoding_format="float")
    assert all(math.isclose(a, b, abs_tol=1e-5) for a, b in zip(as_floats.data[0].embedding, vectors[0], strict=True))
    assert len(client.embeddings.create(model="auto", input=texts[0], dimensions=64).data[0].embedding) == 64


def _dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_async() -> None:
    async with openai.AsyncOpenAI(base_url=BASE, **OPTIONS) as own:
        assert len((await own.embeddings.create(model="auto", input="hello")).data[0].embedding) == 384
        assert (await own.completions.create(model="auto", prompt="Once")).choices[0].text == "Hello from small"
        assert "auto" in [model.id async for model in own.models.list()]


def test_models() -> None:
    listed = {model.id: model for model in client.models.list()}
    assert {"auto", "small", "large", "claude-sonnet-5-5"} <= set(listed)
    model = client.models.retrieve("small")
    assert (model.id, model.object) == ("small", "model") and model.created == listed["small"].created
    assert isinstance(model.created, int) and isinstance(model.owned_by, str)


def test_raw_responses() -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": "hello"}], extra_headers={"x-request-id": "my-own"}
    )
    assert raw.request_id == "my-own" == raw.headers["x-request-id"] and raw.parse()._request_id == "my-own"
    assert raw.headers["x-gateway-model"] == "small" and raw.headers["x-gateway-policy"] == "default"
    assert raw.headers["openai-processing-ms"].isdigit() and raw.headers["content-type"] == "application/json"
    with client.chat.completions.with_streaming_response.create(
        model="auto", messages=[{"role": "user", "content": "hello"}], stream=True
    ) as streamed:
        assert streamed.headers["content-type"].startswith("text/event-stream") and streamed.request_id
        lines = [line for line in streamed.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: {") for line in lines[:-1])


def test_base_urls_that_people_write() -> None:
    for base in (URL, f"{BASE}/", f"{URL}//v1"):
        with openai.OpenAI(base_url=base, **OPTIONS) as own:
            answer = own.chat.completions.create(model="auto", messages=[{"role": "user", "content": "hello"}])
            assert answer.choices[0].message.content == "Hello from small"


def test_azure() -> None:
    with openai.AzureOpenAI(azure_endpoint=URL, api_version="2026-01-01", **OPTIONS) as own:
        answer = own.chat.completions.create(model="small", messages=[{"role": "user", "content": "hello"}])
        assert answer.choices[0].message.content == "Hello from small"
        assert len(own.embeddings.create(model="auto", input="hello").data[0].embedding) == 384
        assert own.responses.create(model="small", input="hello").output_text == "Hello from small"
        assert "small" in [model.id for model in own.models.list()]
    with openai.OpenAI(base_url=f"{URL}/openai/v1/", **OPTIONS) as newer:
        assert newer.responses.create(model="small", input="hello").output_text == "Hello from small"


def test_files_and_fine_tuning() -> None:
    chat = {"messages": [{"role": "user", "content": "1 and 1?"}, {"role": "assistant", "content": "2"}]}
    lines = b"\n".join(json.dumps(chat).encode() for _ in range(10))
    file = client.files.create(file=("chats.jsonl", lines), purpose="fine-tune")
    assert (file.bytes, file.filename, file.status) == (len(lines), "chats.jsonl", "processed")
    assert client.files.content(file.id).read() == lines and file.id in [one.id for one in client.files.list()]
    try:
        client.fine_tuning.jobs.create(model="small", training_file=file.id)
    except openai.BadRequestError as error:  # it is a script
        assert error.param == "model" and "cannot be trained" in str(error)
    assert list(client.fine_tuning.jobs.list()) == []
    assert client.files.delete(file.id).deleted
