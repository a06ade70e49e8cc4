"""Adapters over the real core model, through the gateway: each request has its own, and none another's."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.engines.llama_cpp import LlamaCppSettings
from gateway.engines.pool import Pool
from gateway.errors import BackendUnavailable
from tests.asgi import Client
from tests.conftest import running
from tests.engines.adapter import write_adapter
from tests.engines.conftest import add, lease_of, site

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]
SEA = "Write about the sea."
WITHOUT = """
models:
  core:
    engine: llama.cpp
    source: "file:{model}"
    context: 512
    slots: 2
    threads: 1
    defaults: {{temperature: 0, max_tokens: 8}}
"""
WITH = """
    adapters:
      one: {{source: "file:{one}"}}
      two: {{source: "file:{two}", scale: 0.9}}
"""
POLICY = "policy: default\nroutes: [{name: all, answer: {model: '%s'}}]\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clients(
    tmp_path_factory: pytest.TempPathFactory, core_model_path: Path, empty_database: Path
) -> AsyncIterator[tuple[Client, Client]]:
    """Of a gateway without adapters, and of one with two."""
    folder = tmp_path_factory.mktemp("adapters")
    one, two = (write_adapter(folder / f"{seed}.gguf", seed) for seed in (1, 2))
    for name in ("without", "with"):
        (folder / name / "home").mkdir(parents=True)
        shutil.copy(empty_database, folder / name / "home")
    plain = WITHOUT.format(model=core_model_path)
    adapted = (WITHOUT + WITH.strip("\n") + "\n").format(model=core_model_path, one=one, two=two)
    async with (
        running(folder / "without", plain, default=POLICY % "core") as without,
        running(folder / "with", adapted, default=POLICY % "core:two") as client,
    ):
        yield without, client


@pytest.fixture
def without(clients: tuple[Client, Client]) -> Client:
    return clients[0]


@pytest.fixture
def client(clients: tuple[Client, Client]) -> Client:
    return clients[1]


async def said(client: Client, text: str, model: str = "core", **fields: Any) -> str:
    reply = await client.start_chat(text, model=model, **fields).done(timeout_s=60)
    assert reply.status == 200, reply.body
    assert reply.headers["x-gateway-model"] == ("core:two" if model == "auto" else model)
    assert "x-gateway-dropped" not in reply.headers
    return reply.text


@pytest.mark.slow
async def test_an_adapter_is_chosen_by_name_and_by_request(without: Client, client: Client) -> None:
    base = await said(without, SEA)
    assert await said(client, SEA) == base
    one, two = await said(client, SEA, "core:one"), await said(client, SEA, "core:two")
    assert len({base, one, two}) == 3
    assert await said(client, SEA, lora=[{"id": "one", "scale": 1}]) == one
    assert await said(client, SEA, lora=[{"id": 1}]) == two, "at its own scale"
    assert await said(client, SEA, "core:one", lora=[{"id": "one", "scale": 0}]) == base
    assert await said(client, SEA, "core:one", lora=[]) == base
    assert await said(client, SEA, "core:one", lora=[{"id": "two"}], stream=True) == two
    assert await said(client, SEA, "auto") == two
    assert await said(client, SEA, "auto", lora=[{"id": "one"}]) == one
    assert await said(client, SEA) == base, "and nothing of them stays behind"


Odds = dict[str, float]  # of the first words that may come next, as logarithms


async def odds(client: Client, text: str, model: str = "core", **fields: Any) -> Odds:
    asked = {"model": model, "max_tokens": 1, "logprobs": True, "top_logprobs": 20, **fields}
    reply = await client.start_chat(text, **asked).done(timeout_s=60)
    assert reply.status == 200, reply.body
    (first,) = reply.json["choices"][0]["logprobs"]["content"]
    return {entry["token"]: entry["logprob"] for entry in first["top_logprobs"]}


def distance(a: Odds, b: Odds) -> float:
    """The same words are not read to the same last bit beside others as alone."""
    both = a.keys() & b.keys()
    return max((abs(a[word] - b[word]) for word in both), default=0.0) + 10 * (1 - len(both) / len(a))


@pytest.mark.slow
async def test_each_request_has_its_own_whatever_came_before_and_beside_it(without: Client, client: Client) -> None:
    texts = ("Name a mountain.", "Where is Rome?", "Count to four.")
    alone = {}
    for text in texts:
        alone[text, "core"] = await odds(without, text)
        for model in ("core:one", "core:two"):
            alone[text, model] = await odds(client, text, model, cache_prompt=False)
    numbers = random.Random(3)
    for _ in range(8):
        asked = numbers.choice(texts), numbers.choice(texts)
        models = numbers.sample(("core", "core:one", "core:two"), 2)
        pairs = list(zip(asked, models, strict=True))
        for pair, found in zip(pairs, await asyncio.gather(*(odds(client, *pair) for pair in pairs)), strict=True):
            assert min(alone, key=lambda other: distance(alone[other], found)) == pair
            assert distance(alone[pair], found) < 1


@pytest.mark.slow
async def test_no_prompt_comes_back_as_another_adapter_has_read_it(without: Client, client: Client) -> None:
    """llama.cpp's cache of prompts in host memory does not look at adapters: with it, this fails."""
    lists = [" ".join(f"{word} {n}" for n in range(20)) for word in ("apple", "horse", "river", "stone")]
    for model, pair in (("core:one", lists[:2]), ("core", lists[2:])):  # which takes both slots
        await asyncio.gather(*(odds(client, text, model) for text in pair))
    assert distance(await odds(client, lists[0]), await odds(without, lists[0])) < 1


async def test_all_of_them_are_one_process(client: Client) -> None:
    await said(client, SEA)
    states = client.runtime.pool.states()
    assert list(states) == ["core"] and len(client.gateway.engines) == 1
    pid = states["core"].pid
    await said(client, SEA, "core:one")
    assert client.runtime.pool.states()["core"].pid == pid
    listed = (await client.call("GET", "/v1/models")).json["data"]
    facts = {entry["id"]: entry["gateway"] for entry in listed}
    assert (facts["core:one"]["base"], facts["core:one"]["adapter"]) == ("core", "one")
    assert facts["core:one"]["context"] == facts["core"]["context"] == 512


@pytest.mark.parametrize("model", ["core", "core:one", "auto"])
async def test_what_there_is_not_is_refused_and_named(client: Client, model: str) -> None:
    for wanted in ([{"id": "onne"}], [{"id": 2}], "one", [{"id": "one", "scale": "much"}]):
        reply = await client.chat(model=model, lora=wanted)
        assert (reply.status, reply.error["param"], reply.error["type"]) == (400, "lora", "invalid_request_error")
    reply = await client.chat(model=model, lora=[{"id": "onne"}])
    assert reply.error["message"].endswith("has no adapter 'onne'; there are: 'one', 'two'")


async def test_without_adapters_the_field_is_left_out_and_named(without: Client) -> None:
    reply = await without.chat(SEA, model="core", lora=[{"id": "one"}])
    assert (reply.status, reply.headers["x-gateway-dropped"]) == (200, "lora")


async def test_prompts_and_tokens(without: Client, client: Client) -> None:
    async def continued(client: Client, **fields: Any) -> str:
        body = {"model": "core", "prompt": "The capital of France is", "max_tokens": 6, **fields}
        reply = await client.call("POST", "/v1/completions", body)
        assert reply.status == 200, reply.body
        return str(reply.json["choices"][0]["text"])

    base, one = await continued(client), await continued(client, model="core:one")
    assert base == await continued(without) != one == await continued(client, lora=[{"id": "one"}])
    long = await client.chat("word " * 600, model="core:one", lora=[{"id": "two"}])
    assert (long.status, long.error["code"]) == (400, "context_length_exceeded")
    assert "'core:one' takes at most 512 tokens, and the request has 6" in long.error["message"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "its adapter 'a' is missing"),
        (lambda path: path.write_bytes(b"MZ"), "its adapter 'a' is not a GGUF file"),
        (lambda path: write_adapter(path, 1, width=320), "llama.cpp cannot load its model file or its adapter 'a'"),
    ],
    ids=["missing", "another format", "for another model"],
)
async def test_an_adapter_that_does_not_fit_says_so(
    core_model_path: Path, tmp_path: Path, make: Any, reason: str
) -> None:
    make(tmp_path / "a.gguf")
    pool = Pool(site(tmp_path / "home"))
    add(pool, LlamaCppSettings("core", core_model_path, context=256, adapters=(("a", tmp_path / "a.gguf"),)))
    await pool.start()
    try:
        with pytest.raises(BackendUnavailable) as caught:
            async with lease_of(pool, "core"):
                pass
        assert caught.value.message.endswith(f": {reason}")
    finally:
        await pool.close()
