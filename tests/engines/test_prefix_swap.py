"""The real core model: a conversation goes on where it was, though another model has had the memory meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.engines.footprint import Footprint
from gateway.engines.resident import Stage
from gateway.runtime import Runtime
from gateway.trace import RequestTrace, Trace
from tests.asgi import Client, Response
from tests.conftest import Serve, running

pytestmark = pytest.mark.model

WORDS = "sea wind tree house river stone light cloud bird road fire night morning field glass door paper horse".split()


def models(path: Path, *names: str, **keys: object) -> str:
    own = {"residency": "on_demand", "context": 4096, **keys}
    more = "".join(f"\n    {key}: {value}" for key, value in own.items())
    defaults = "{max_tokens: 4, temperature: 0}"
    entry = "  {name}:\n    engine: llama.cpp\n    source: 'file:{path}'\n    defaults: {defaults}{more}\n"
    entries = "".join(entry.format(name=name, path=path, defaults=defaults, more=more) for name in names)
    return f"prefix_cache_mb: 200\nmodels:\n{entries}"


def words(count: int, seed: int = 1) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(count))


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[RequestTrace]:
    found: list[RequestTrace] = []
    record = Runtime.record

    def note(runtime: Runtime, trace: RequestTrace) -> None:
        found.append(trace)
        record(runtime, trace)

    monkeypatch.setattr(Runtime, "record", note)
    return found


def span(traces: list[RequestTrace]) -> Trace:
    return next(traces[-1].models())


async def ask(client: Client, model: str, *turns: str, **fields: Any) -> Response:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    body = {"model": model, "messages": messages, **fields}
    said = await client.start("POST", "/v1/chat/completions", body).done(240)
    assert said.status == 200, said.body
    return said


def cached(said: Response) -> int:
    return int(said.json["usage"]["prompt_tokens_details"]["cached_tokens"])


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [600, 1950])
async def test_the_prefix_is_kept_over_a_swap(
    core_model_path: Path, serve: Serve, traces: list[RequestTrace], tokens: int
) -> None:
    client = await serve(models(core_model_path, "a", "b"))
    pool, prefixes = client.runtime.pool, client.runtime.prefixes
    prefixes.limit(200)
    one = client.gateway.engines[0].footprint()
    pool.budget = Footprint(int(1.6 * one.ram_bytes), 2 * one.gpu_bytes)

    text = words(tokens)
    first = await ask(client, "a", text, stream=True, stream_options={"include_usage": True})
    prompt_tokens = first.events[-2]["usage"]["prompt_tokens"]
    assert prompt_tokens >= tokens
    facts = span(traces).facts or {}
    read_ms = facts["first_token_ms"]
    assert "restored_ms" not in facts

    await ask(client, "b", "Hello")
    assert (pool.states()["a"].stage, pool.states()["b"].stage) == (Stage.DORMANT, Stage.WARM)
    (file,) = prefixes.root.glob("*/*")
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700

    second = await ask(client, "a", text, first.text, "Go on.")
    assert cached(second) >= 0.9 * prompt_tokens
    facts = span(traces).facts or {}
    assert facts["restored_tokens"] >= prompt_tokens and facts["woke"]
    print(f"{prompt_tokens} tokens: read in {read_ms} ms, put back in {facts['restored_ms']} ms")
    assert facts["restored_ms"] * 3 < read_ms


@pytest.mark.slow
async def test_the_prefix_is_kept_over_a_restart_and_a_damaged_file_harms_nobody(
    core_model_path: Path, tmp_path: Path, traces: list[RequestTrace]
) -> None:
    text = words(530, seed=2)
    config = models(core_model_path, "a", slots=2)
    (tmp_path / "home").mkdir()
    root = tmp_path / "home" / "prefixes"

    async with running(tmp_path, config) as client:
        client.runtime.prefixes.limit(200)
        first = await ask(client, "a", text)
        await ask(client, "a", "Hello")
        again = await ask(client, "a", text, first.text, "Go on.")
        assert cached(again) >= 530, "it has returned to its slot"
    (file,) = root.glob("*/*.kv")  # the other was not worth it

    async with running(tmp_path, config) as client:
        client.runtime.prefixes.limit(200)
        second = await ask(client, "a", text, first.text, "Go on.", again.text, "And then?")
        assert cached(second) >= 540 and (span(traces).facts or {})["restored_tokens"] >= 540

    (file,) = root.glob("*/*.kv")
    file.write_bytes(file.read_bytes()[:100_000])  # llama.cpp's server would end itself over it
    async with running(tmp_path, config) as client:
        client.runtime.prefixes.limit(200)
        third = await ask(client, "a", text)
        assert (cached(third), client.runtime.pool.states()["a"].restarts) == (0, 0)
        assert not file.exists()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_a_slot_can_be_chosen_on_each_path(core_model_path: Path, serve: Serve, path: str) -> None:
    client = await serve(models(core_model_path, "a", residency="always", slots=3).replace("200", "0"))
    text = words(60)
    body = {"prompt": text} if path == "/v1/completions" else {"messages": [{"role": "user", "content": text}]}
    headers = {"x-gateway-session": "one"}
    for turn in range(3):
        said = await client.start("POST", path, {"model": "a", **body}, headers=headers).done(60)
        assert (cached(said) > 0) == (turn > 0)
    several = await client.start("POST", path, {"model": "a", "n": 2, **body}, headers=headers).done(60)
    assert len(several.json["choices"]) == 2
    other = await client.start("POST", path, {"model": "a", **body}, headers={"x-gateway-session": "two"}).done(60)
    assert cached(other) == 0, "it has gone to a slot of its own"
