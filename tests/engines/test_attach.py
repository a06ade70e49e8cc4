"""A server that somebody else runs: asked what it has, watched, and used while it is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.engines import State
from gateway.engines.attach import AttachedServer, AttachSettings, Rhythm
from gateway.transport.client import PooledClient
from tests.servers import (
    Double,
    Json,
    OllamaModel,
    listed,
    llama_server,
    ollama,
    plain,
    serving,
    vllm,
)

QUICK = Rhythm(up_s=0.03, first_retry_s=0.02, longest_retry_s=0.05, answer_s=0.5, late_answer_s=1, least_s=0)
SLOW = replace(QUICK, up_s=3600, whole_s=3600)


class Watched(AttachedServer):
    """One whose changes can be waited for."""

    def __init__(self, settings: AttachSettings, client: PooledClient) -> None:
        self._changed = asyncio.Event()
        self.states: list[State] = []
        super().__init__(settings, client, self._note_change)

    def _note_change(self) -> None:
        self.states.append(self.state)
        self._changed.set()

    async def until(self, condition: Callable[[Watched], object]) -> None:
        async with asyncio.timeout(10):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()


Watch = Callable[..., Watched]


@pytest.fixture
async def watch() -> AsyncIterator[Watch]:
    """`server = watch(url, model, …)`; started, and stopped after the test."""
    client, watched = PooledClient(), []

    def make(url: str, model: str, rhythm: Rhythm = QUICK, **more: Any) -> Watched:
        settings = AttachSettings(name="m", url=url, model=model, rhythm=rhythm, **more)
        watched.append(Watched(settings, client))
        watched[-1].start()
        return watched[-1]

    yield make
    for server in watched:
        await server.stop()
    await client.close()


def is_ready(server: Watched) -> bool:
    return server.state is State.READY


def has_failed(server: Watched) -> bool:
    return server.state is State.FAILED


async def test_it_is_ready_once_it_has_the_model(watch: Watch) -> None:
    async with serving(llama_server("qwen", slots=4, context=8192, vision=True)) as double:
        server = watch(double.url, "qwen", key="k")
        await server.until(is_ready)
        assert server.lease is not None and server.found is not None
        assert (server.lease.url, server.lease.key, server.lease.id) == (f"{double.url}/v1", "k", "qwen")
        assert (server.found.slots, server.found.models[0].context) == (4, 8192)
        assert server.found.models[0].accepts == {"text", "image"}
        assert server.states == [State.STARTING, State.READY]


async def test_what_the_file_says_counts_more(watch: Watch) -> None:
    async with serving(llama_server("qwen", slots=4, context=8192, vision=True)) as double:
        said = {"own_slots": 2, "context": 1000, "accepts": frozenset({"text"})}
        server = watch(double.url, "qwen", **said)
        await server.until(is_ready)
        assert server.found is not None
        assert (server.found.slots, server.found.models[0].context) == (2, 1000)
        assert server.found.models[0].accepts == {"text"}


async def test_a_missing_model_is_told_with_those_that_are_there(watch: Watch) -> None:
    async with serving(plain(*(f"m{i}" for i in range(15)))) as double:
        server = watch(double.url, "gone")
        await server.until(has_failed)
        assert server.last_error is not None
        assert server.last_error.startswith("its server has no model 'gone'; it has 'm0', 'm1', ")
        assert server.last_error.endswith("'m11' and 3 more")
        assert server.lease is None and server.found is None
        double.gets["/v1/models"] = listed({"id": "gone"})
        await server.until(is_ready)


@pytest.mark.parametrize(
    ("double", "key", "why"),
    [
        (plain(), None, "its server has no model 'a'; it has none"),
        (plain("a", key="right"), "wrong", "its server refuses the key"),
        (Double(anything=500), None, "its server lists no models (HTTP 500)"),
        (Double(stall=True), None, "its server did not answer within 0.5 s"),
    ],
)
async def test_why_it_cannot_be_used(watch: Watch, double: Double, key: str | None, why: str) -> None:
    async with serving(double):
        server = watch(double.url, "a", key=key)
        await server.until(has_failed)
        assert server.last_error == why
        assert server.resumes_at is not None and server.resumes_at <= time.monotonic() + QUICK.longest_retry_s


async def test_ollama_takes_a_name_without_its_tag(watch: Watch) -> None:
    async with serving(ollama(OllamaModel("llama3.2:latest"))) as double:
        server = watch(double.url, "llama3.2")
        await server.until(is_ready)
        assert server.lease is not None and server.lease.id == "llama3.2:latest"


async def test_it_goes_and_comes_back(watch: Watch) -> None:
    double = vllm("a")
    async with serving(double):
        server = watch(double.url, "a")
        await server.until(is_ready)
        port = double.port
    await server.until(has_failed)
    assert (server.lease, server.last_error, server.restarts) == (None, "its server cannot be reached", 0)
    async with serving(vllm("a"), port):
        await server.until(is_ready)
        assert server.restarts == 1 and server.resumes_at is None


async def test_later_questions_are_few(watch: Watch) -> None:
    async with serving(ollama(OllamaModel("a"))) as double:
        server = watch(double.url, "a", replace(QUICK, whole_s=3600))
        await server.until(is_ready)
        double.seen.clear()
        double.gets["/api/ps"] = {"models": [{"name": "a", "context_length": 32768}]}
        await server.until(lambda s: s.found is not None and s.found.models[0].context == 32768)
        assert set(double.seen) == {"GET /api/ps"}


async def test_now_and_then_everything_is_asked(watch: Watch) -> None:
    models = [OllamaModel("a")]
    async with serving(ollama(*models)) as double:
        server = watch(double.url, "a", replace(QUICK, whole_s=0.05))
        await server.until(is_ready)
        double.gets["/api/tags"] = {"models": []}
        await server.until(has_failed)
        assert server.last_error == "its server has no model 'a'; it has none"


async def test_a_failed_request_makes_it_look_at_once(watch: Watch) -> None:
    double = plain("a")
    async with serving(double):
        server = watch(double.url, "a", SLOW)
        await server.until(is_ready)
    server.doubt()
    await server.until(has_failed)


async def test_one_late_answer_is_forgiven(watch: Watch) -> None:
    double = plain("a")
    async with serving(double):
        server = watch(double.url, "a", replace(SLOW, answer_s=0.1, late_answer_s=5))
        await server.until(is_ready)
        list_of = double.gets["/v1/models"]
        asked: list[int] = []

        def late(body: Json) -> Any:
            asked.append(1)
            if len(asked) == 1:
                time.sleep(0.3)  # the double stands still, as a server does that computes on its only thread
            return list_of

        double.gets["/v1/models"] = late
        server.doubt()
        async with asyncio.timeout(5):
            while len(asked) < 2:
                await asyncio.sleep(0.01)
        assert server.states == [State.STARTING, State.READY]


async def test_stopping_is_prompt_also_in_the_middle_of_a_question(watch: Watch) -> None:
    async with serving(Double(stall=True)) as double:
        server = watch(double.url, "a", replace(QUICK, answer_s=3600))
        async with asyncio.timeout(5):
            while not double.seen:
                await asyncio.sleep(0.01)
            await server.stop()
        assert (server.state, server.lease) == (State.STOPPED, None)


async def test_whatever_goes_wrong_it_goes_on(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*args: Any, **more: Any) -> None:
        raise LookupError("a bug")

    async with serving(plain("a")) as double:
        with monkeypatch.context() as patch:
            patch.setattr("gateway.engines.attach.probe", broken)
            server = watch(double.url, "a")
            await server.until(has_failed)
            assert server.last_error == "its server cannot be asked"
        await server.until(is_ready)


def test_settings_do_not_show_the_key() -> None:
    settings = AttachSettings(name="m", url="http://x", model="a", key="secret")
    assert "secret" not in repr(settings) and hash(settings) == hash(replace(settings))
