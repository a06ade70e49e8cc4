"""Prompts on the real core model: what it says is its own, what is done with it is as elsewhere."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.tokens import Count
from tests.api.test_completions import BOTH_WAYS, complete, start, texts
from tests.asgi import Client
from tests.backends.test_completions import PREFIX, SUFFIX
from tests.conftest import running
from tests.upstream import SINGLE

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]
CORE = """
models:
  core:
    engine: llama.cpp
    source: "file:{path}"
    context: 512
    slots: 4
    threads: 1
    defaults: {{temperature: 0}}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def core(
    tmp_path_factory: pytest.TempPathFactory, core_model_path: Path, empty_database: Path
) -> AsyncIterator[Client]:
    folder = tmp_path_factory.mktemp("core")
    (folder / "home").mkdir()
    shutil.copy(empty_database, folder / "home")
    policy = SINGLE.replace("m1", "core")
    async with running(folder, CORE.format(path=core_model_path), default=policy) as client:
        yield client


@BOTH_WAYS
async def test_the_core_model_goes_on(core: Client, stream: bool) -> None:
    options = {"include_usage": True}
    reply = await start(core, "Once upon a time", max_tokens=6, logprobs=2, stream=stream, stream_options=options).done(
        60
    )
    assert reply.status == 200 and texts(reply)[0].strip()
    usage = reply.events[-2]["usage"] if stream else reply.json["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (4, 6, 10)
    choices = [e["choices"][0] for e in reply.events[:-2]] if stream else reply.json["choices"]
    logprobs = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    tokens = [token for part in logprobs for token in part["tokens"]]
    assert "".join(tokens) == texts(reply)[0] and logprobs[0]["text_offset"][0] == len("Once upon a time")
    assert all(len(top) == 2 for part in logprobs for top in part["top_logprobs"])
    assert choices[-1]["finish_reason"] == "length"


@BOTH_WAYS
async def test_the_core_model_gives_several_choices(core: Client, stream: bool) -> None:
    reply = await start(core, ["Once upon", "The sea is"], n=2, max_tokens=3, temperature=1, stream=stream).done(60)
    assert set(texts(reply)) == {0, 1, 2, 3}
    if not stream:
        assert reply.json["usage"]["completion_tokens"] == 12 and reply.json["usage"]["prompt_tokens"] == 2 + 3


async def test_the_core_model_reads_token_ids(core: Client) -> None:
    said = texts(await start(core, "Once upon a time", max_tokens=4).done(60))
    assert texts(await start(core, [6403, 1980, 253, 655], max_tokens=4).done(60)) == said


async def test_the_core_model_has_no_echo_and_the_reply_says_so(core: Client) -> None:
    reply = await start(core, "Once upon a time", max_tokens=2, echo=True, logprobs=0).done(60)
    assert not texts(reply)[0].startswith("Once") and reply.headers["x-gateway-dropped"] == "echo"
    assert len(reply.json["choices"][0]["logprobs"]["tokens"]) == 2


@BOTH_WAYS
async def test_the_core_model_cannot_fill_in(core: Client, stream: bool) -> None:
    for path in ("/v1/completions", "/v1/fim/completions"):
        body = {"model": "core", "prompt": PREFIX, "suffix": SUFFIX, "stream": stream}
        reply = await core.call("POST", path, body)
        assert (reply.status, reply.error["param"]) == (400, "suffix")
        assert "not supported by this model" in reply.error["message"]


async def test_the_core_model_counts_what_might_not_fit(core: Client) -> None:
    reply = await complete(core, "word " * 600)
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "context_length_exceeded", "prompt")
    (model,) = [m for m in core.gateway.models.values() if m.counter]
    assert model.counter is not None
    assert await model.counter.count({"prompt": "Once upon a time"}) == Count(4, estimated=False)


async def test_a_client_that_leaves_frees_the_core_model(core: Client) -> None:
    call = start(core, "Count to one thousand: 1, 2, 3,", stream=True, max_tokens=480, ignore_eos=True)
    pool = core.runtime.pool
    async with asyncio.timeout(30):
        await call.wrote.wait()
        call.leave()
        await call.done()
        while pool.states()["core"].busy:
            await asyncio.sleep(0.01)
