"""The built-in embedding model: what it makes of texts, and how it is fetched, loaded, shared and stopped."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backends.counting import decoder
from gateway.embedding import EmbeddingRequest, RerankRequest, as_bytes, as_floats, minilm
from gateway.embedding.minilm import BATCH_TEXTS, BATCH_TOKENS, CONTEXT, MiniLM, batches
from gateway.embedding.sentence_model import SentenceModel
from gateway.errors import BackendTimeout, BackendUnavailable, InvalidRequest, Overloaded
from gateway.trace import RequestTrace

NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


@pytest.fixture(scope="module")
def model(minilm_home: Path) -> Iterator[MiniLM]:
    """One for all, for it takes a second to load."""
    model = MiniLM(minilm_home, decoder)
    yield model
    model.close()


@pytest.fixture
def fresh(minilm_home: Path) -> Iterator[MiniLM]:
    fresh = MiniLM(minilm_home, decoder)
    yield fresh
    fresh.close()


async def vectors(model: MiniLM, *inputs: str | tuple[int, ...], dimensions: int | None = None) -> list[list[float]]:
    embedded = await model.embed(EmbeddingRequest(inputs, dimensions), RequestTrace())
    return [as_floats(vector) for vector in embedded.vectors]


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_what_means_the_same_is_near_and_what_does_not_is_far(model: MiniLM) -> None:
    asked, same, other = await vectors(
        model, "How do I reset my password?", "I forgot my login, how can I change it?", "The river froze in January."
    )
    assert cosine(asked, same) > 0.5 > 0.2 > cosine(asked, other)
    assert all(math.isclose(math.hypot(*vector), 1, abs_tol=1e-5) for vector in (asked, same, other))


async def test_similarities_are_those_published_for_the_model(model: MiniLM) -> None:
    """By the float weights; these have eight bits each."""
    person, *others = await vectors(
        model, "That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"
    )
    found = [cosine(person, other) for other in others]
    assert found == pytest.approx([0.695, 0.943, 0.257], abs=0.02)


async def test_256_tokens_are_read_and_no_more(model: MiniLM) -> None:
    words = NUMBERS * 40
    whole, as_read, less, shorter = await vectors(
        model, *(" ".join(words[:count]) for count in (400, CONTEXT - 2, 200, 126))
    )
    assert cosine(whole, as_read) == pytest.approx(1, abs=1e-5)
    assert cosine(whole, less) < 0.9999 and cosine(less, shorter) < 0.9999, "128 is what the tokenizer's file says"
    trace = RequestTrace()
    assert (await model.embed(EmbeddingRequest((" ".join(words),)), trace)).input_tokens == CONTEXT
    assert trace.totals().input_tokens == CONTEXT and trace.cost_usd == 0


async def test_vectors_do_not_depend_on_what_else_is_in_the_batch(model: MiniLM) -> None:
    texts = [" ".join(NUMBERS[: 1 + place % 10]) * (1 + place % 7) for place in range(70)]
    together = await vectors(model, *texts)
    for place in (0, 9, 33, 69):
        (alone,) = await vectors(model, texts[place])
        assert cosine(alone, together[place]) == pytest.approx(1, abs=1e-5)


async def test_dimensions_are_the_first_ones_made_one_long(model: MiniLM) -> None:
    (whole,), (cut,) = await vectors(model, "hello"), await vectors(model, "hello", dimensions=64)
    norm = math.hypot(*whole[:64])
    assert cut == pytest.approx([number / norm for number in whole[:64]], abs=1e-6)
    for wrong in (0, 385):
        with pytest.raises(InvalidRequest, match="from 1 to 384") as caught:
            await vectors(model, "hello", dimensions=wrong)
        assert caught.value.param == "dimensions"


async def test_tokens_are_read_as_the_text_that_they_stand_for(model: MiniLM) -> None:
    hello_world = (15339, 1917)  # cl100k_base
    tokens, text, both = await vectors(model, hello_world, "hello world", "hello world!")
    assert tokens == text != both
    with pytest.raises(InvalidRequest) as caught:
        await vectors(model, "fine", (15339, 99_999_999))
    assert caught.value.param == "input[1]"


async def test_without_the_encoding_tokens_are_refused(minilm_home: Path) -> None:
    async def nothing() -> None:
        return None

    model = MiniLM(minilm_home, nothing)
    with pytest.raises(InvalidRequest, match="send texts"):
        await vectors(model, (1, 2))
    model.close()


async def test_documents_are_put_in_order_by_what_they_have_to_do_with_the_query(model: MiniLM) -> None:
    documents = ("Berlin is in Germany.", "Bread is baked in an oven.", "Paris is the capital of France.")
    asked = RerankRequest("What is the capital of France?", documents)
    ranked = await model.rerank(asked, RequestTrace())
    assert [found.index for found in ranked.results] == [2, 0, 1]
    assert 1 >= ranked.results[0].score > 0.7 > ranked.results[1].score > ranked.results[2].score >= 0
    first = RerankRequest("What is the capital of France?", documents, top_n=1)
    assert (await model.rerank(first, RequestTrace())).results == ranked.results[:1]


async def test_it_is_loaded_once_however_many_ask(fresh: MiniLM, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []

    def load(*arguments: object) -> SentenceModel:
        loads.append(threading.current_thread().name)
        return SentenceModel(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(minilm, "SentenceModel", load)
    given_up = asyncio.create_task(vectors(fresh, "a"))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(*(vectors(fresh, f"text {number}") for number in range(5)))
    assert len(loads) == 1 and loads[0].startswith("minilm")


async def test_what_cannot_be_fetched_is_503_and_tried_again_later(
    minilm_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [file.path for file in minilm.files(minilm_home)]
    paths = [tmp_path / "model.onnx", tmp_path / "tokenizer.json"]
    monkeypatch.setattr(minilm, "FILES", tuple((f"file:{path}", None) for path in paths))
    model = MiniLM(tmp_path, decoder)
    for _ in range(2):
        with pytest.raises(BackendUnavailable, match="cannot be fetched") as caught:
            await vectors(model, "hello")
        assert caught.value.headers == {"retry-after": "10"} and str(tmp_path) not in caught.value.message
    for path, there in zip(paths, found, strict=True):
        path.symlink_to(there)
    with pytest.raises(BackendUnavailable):
        await vectors(model, "hello")
    model._retry_at = 0.0
    assert len((await vectors(model, "hello"))[0]) == 384
    model.close()


async def test_a_broken_file_is_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "junk").write_text("junk")
    monkeypatch.setattr(minilm, "FILES", ((f"file:{tmp_path}/junk", None),) * 2)
    model = MiniLM(tmp_path, decoder)
    with pytest.raises(BackendUnavailable, match="cannot be loaded"):
        await vectors(model, "hello")
    model.close()


async def test_who_gives_up_frees_the_worker_after_a_batch_and_is_billed_for_what_was_read(
    model: MiniLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    await vectors(model, "loaded")
    trace = RequestTrace()
    texts = tuple(" ".join(NUMBERS * 25) for _ in range(500))
    begun = asyncio.Event()
    in_worker = model.in_worker

    async def told(work: object, *arguments: object) -> object:
        done = await in_worker(work, *arguments)  # type: ignore[arg-type]
        if getattr(work, "__name__", "") == "vectors":
            begun.set()
        return done

    monkeypatch.setattr(model, "in_worker", told)
    long = asyncio.create_task(model.embed(EmbeddingRequest(texts), trace))
    await asyncio.wait_for(begun.wait(), 20)
    long.cancel()
    started = time.monotonic()
    await vectors(model, "next")
    assert time.monotonic() - started < 3
    with pytest.raises(asyncio.CancelledError):
        await long
    assert 0 < trace.totals().input_tokens < 500 * CONTEXT


async def test_a_deadline_ends_the_wait(model: MiniLM) -> None:
    texts = tuple(" ".join(NUMBERS * 25) for _ in range(500))
    with pytest.raises(BackendTimeout):
        await model.embed(EmbeddingRequest(texts, deadline=time.monotonic() + 0.05), RequestTrace())


async def test_only_so_many_may_wait(model: MiniLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "MAX_WAITING", 1)
    first = asyncio.create_task(vectors(model, "first"))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as caught:
        await vectors(model, "second")
    assert caught.value.status == 429 and "retry-after" in caught.value.headers
    await first
    await vectors(model, "third")


async def test_once_closed_it_answers_nobody(fresh: MiniLM) -> None:
    fresh.close()
    with pytest.raises(BackendUnavailable, match="stopping"):
        await vectors(fresh, "hello")


@given(st.lists(st.integers(2, CONTEXT), max_size=200))
def test_batches_hold_each_text_once_and_are_not_too_large(lengths: list[int]) -> None:
    found = list(batches(lengths))
    assert sorted(place for batch in found for place in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) <= BATCH_TEXTS
        assert len(batch) == 1 or len(batch) * max(lengths[place] for place in batch) <= BATCH_TOKENS


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=20))
def test_floats_and_bytes_are_the_same_numbers(numbers: list[float]) -> None:
    assert as_floats(as_bytes(numbers)) == numbers
    assert as_floats(numbers) == numbers and as_bytes(as_bytes(numbers)) == as_bytes(numbers)


def test_nothing_large_is_imported_before_it_is_asked() -> None:
    code = (
        "import sys, gateway.http_server, gateway.config.build\n"
        "assert not {'onnxruntime', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
