"""Where models are given what users want remembered, no answer made of it is another user's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.shards import Kind, Shard, Standing, State
from tests.asgi import Client
from tests.caching.asking import asked, leaf_of, policy, said
from tests.conftest import Serve
from tests.shards.story import models, opened, shelved, work

DOG = "What is my dog called?"
KNOWS_REX = {"when": {"contains": "Rex"}, "text": "Rex."}
NODE = policy("{model: core, shards: true, cache: true}")


async def told(client: Client, user: str | None, **fields: Any) -> tuple[str, str | None]:
    reply = await client.chat(DOG, user=user, **fields)
    return reply.text, said(reply)


async def prove(client: Client, shard: Shard) -> None:
    """As its test on the reader would."""
    [subject] = client.gateway.orders.subjects
    standing = Standing(shard.id, subject.reader.name, State.LIVE, subject.reader.fingerprint)
    await work(client)
    await opened(client).store.set_standings([standing])
    await opened(client).index.refresh()


async def test_an_answer_from_a_memory_is_its_users_alone(serve: Serve, minilm_home: Path) -> None:
    client = await shelved(serve, minilm_home, models(KNOWS_REX), default=NODE)
    assert [await told(client, user) for user in ("ann", "bob")] == [("hm", "miss"), ("hm", "hit")], "nothing is known"
    [change] = await opened(client).memories.remember("My dog is called Rex.", "", "ann", "ann")
    assert change.shard.kind is Kind.MEMORY
    await prove(client, change.shard)
    assert await told(client, "ann") == ("Rex.", "miss"), "not what was answered before it was remembered"
    assert await told(client, "ann") == ("Rex.", "hit")
    assert await told(client, "bob") == ("hm", "hit")
    assert await told(client, None) == ("hm", "hit")
    assert await told(client, "ann", headers={"x-gateway-no-shards": "1"}) == ("hm", "hit")
    assert await told(client, "ann", headers={"x-gateway-session": "another"}) == ("Rex.", "miss")
    await opened(client).memories.forget("my dog", "", "ann")
    await opened(client).index.refresh()
    assert await told(client, "ann") == ("hm", "hit")


async def test_a_memory_that_comes_while_an_answer_is_made_is_kept_out(
    serve: Serve, minilm_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await shelved(serve, minilm_home, models(KNOWS_REX), default=NODE)
    asking, remembered = asyncio.Event(), asyncio.Event()
    upstream = leaf_of(client).client
    post = upstream.post

    async def gated(*args: Any, **more: Any) -> Any:
        asking.set()
        await remembered.wait()
        return await post(*args, **more)

    monkeypatch.setattr(upstream, "post", gated)
    call = client.start_chat(DOG, user="ann")
    await asking.wait()
    await opened(client).memories.remember("My dog is called Rex.", "", "ann", "ann")
    await opened(client).index.refresh()
    remembered.set()
    await call.done()
    assert client.runtime.answers.entries == 0
    assert await told(client, "bob") == ("hm", "miss")
    assert asked(client) == 2


async def test_purging_a_user_over_http(serve: Serve) -> None:
    client = await serve(models(), default=policy("{model: core, cache: true}"))
    for user in ("ann", "bob"):
        assert await told(client, user, temperature=len(user) / 10 + (user == "bob")) == ("hm", "miss")
    reply = await client.call("POST", "/v1/shards/purge", {"user": "ann"})
    assert reply.status == 200
    assert await told(client, "ann", temperature=0.3) == ("hm", "miss")
    assert await told(client, "ann", temperature=1.3) == ("hm", "hit"), "it was bob's request"
