"""The row of the matrix (`test_matrix.py`) that is a real model: what it says is its own, what it does is the same."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
import pytest_asyncio

from tests.asgi import Client
from tests.conftest import running
from tests.test_matrix import BOTH_WAYS, IMAGE, SCHEMA, TOOL

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]
MODELS = """
models:
  m1:
    engine: llama.cpp
    source: "file:{path}"
    context: 1024
    slots: 2
    threads: 1
    defaults: {{temperature: 0, max_tokens: 48}}
  m2: {{engine: scripted, replies: [{{text: from the next}}]}}
"""
CASCADE = """
policy: default
routes: [{name: all, answer: {cascade: [{model: m1, checks: [not_empty, tool_arguments]}, {model: m2}]}}]
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(
    tmp_path_factory: pytest.TempPathFactory, core_model_path: Path, empty_database: Path
) -> AsyncIterator[Client]:
    folder = tmp_path_factory.mktemp("core")
    (folder / "home").mkdir()
    shutil.copy(empty_database, folder / "home")
    alone = CASCADE.replace("default", "alone").replace(", {model: m2}", "")
    async with running(folder, MODELS.format(path=core_model_path), default=CASCADE, alone=alone) as client:
        yield client


@BOTH_WAYS
async def test_words_and_usage(client: Client, stream: bool) -> None:
    options = {"include_usage": True} if stream else None
    reply = await client.chat("Write one sentence about the sea.", model="m1", stream=stream, stream_options=options)
    assert reply.status == 200 and len(reply.text) > 10
    usage = reply.events[-2]["usage"] if stream else reply.json["usage"]
    assert usage["prompt_tokens"] == 37 and 0 < usage["completion_tokens"] <= 48


@BOTH_WAYS
async def test_tools_that_its_template_has_no_place_for(client: Client, stream: bool) -> None:
    """It would answer as if none had been offered."""
    reply = await client.chat("Hello!", model="alone", stream=stream, tools=[TOOL], max_tokens=8)
    assert (reply.status, reply.headers["x-gateway-dropped"]) == (200, "tools")
    assert reply.gateway["checks_failed"] == ["tool_arguments"]
    reply = await client.chat("Hello!", model="m1", stream=stream, tools=[TOOL], tool_choice="auto", max_tokens=8)
    assert (reply.status, reply.headers["x-gateway-dropped"]) == (200, "tools")
    wanted = await client.chat("Hello!", model="m1", stream=stream, tools=[TOOL], tool_choice="required")
    assert (wanted.status, wanted.error["code"], wanted.error["param"]) == (400, "unsupported_tools", "tools")
    outward = await client.chat("Hello!", stream=stream, tools=[TOOL])
    assert (outward.text, outward.gateway["path"]) == ("from the next", "m1!tools,m2")
    outward = await client.chat("Hello!", stream=stream, tools=[TOOL], tool_choice="required")
    assert (outward.text, outward.gateway["path"]) == ("from the next", "m1!tools,m2")
    assert (await client.call("GET", "/v1/models/m1")).json["gateway"]["tools"] is False


@BOTH_WAYS
async def test_a_json_schema(client: Client, stream: bool) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
    reply = await client.chat("Which city is in France?", model="m1", stream=stream, response_format=wanted)
    assert isinstance(orjson.loads(reply.text)["city"], str)


@BOTH_WAYS
async def test_an_image_is_not_for_it(client: Client, stream: bool) -> None:
    refused = await client.chat(messages=IMAGE, model="m1", stream=stream)
    assert (refused.status, refused.error["code"]) == (400, "unsupported_content")
    reply = await client.chat(messages=IMAGE, stream=stream)
    assert (reply.text, reply.gateway["path"]) == ("from the next", "m1!modality,m2")


@BOTH_WAYS
async def test_an_error_of_the_engine_keeps_its_status(client: Client, stream: bool) -> None:
    broken = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    reply = await client.chat("hi", model="m1", stream=stream, response_format=broken)
    assert reply.status == 400 and reply.error["message"].startswith("model 'm1': ")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_the_call(client: Client, stream: bool) -> None:
    call = client.start_chat("Count to one thousand.", model="m1", stream=stream, max_tokens=800)
    pool = client.runtime.pool
    async with asyncio.timeout(30):
        if stream:
            await call.wrote.wait()
        while not pool.states()["m1"].busy:
            await asyncio.sleep(0.01)
        call.leave()
        await call.done()
        while pool.states()["m1"].busy:
            await asyncio.sleep(0.01)
        # both places answer at once: the one that was left is not still counting
        await asyncio.gather(*(client.chat("hi", model="m1", max_tokens=2) for _ in range(2)))


async def test_a_stream_cut_after_its_first_word_ends_loudly(client: Client) -> None:
    """The last test of this file: the engine is killed, and comes back."""
    call = client.start_chat("Count to one thousand.", model="m1", stream=True, max_tokens=800)
    await asyncio.wait_for(call.wrote.wait(), 30)
    pid = client.runtime.pool.states()["m1"].pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    reply = await call.done(20)
    assert reply.status == 200 and reply.events[-1]["error"]["message"], "and no [DONE]"
    async with asyncio.timeout(20):
        while client.runtime.pool.states()["m1"].pid in (pid, None):  # until its end is seen
            await asyncio.sleep(0.01)
    assert (await client.chat("hi", model="m1", max_tokens=2)).status == 200
