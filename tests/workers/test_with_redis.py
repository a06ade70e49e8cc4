"""Workers of one gateway hear what others tell by Redis, and tell theirs."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import orjson
import pytest

from tests.shared_servers import Redis
from tests.workers.serving import PATIENCE_S, Served, serving

URLS = ["http://127.0.0.1:9/v1", "http://127.0.0.1:10/v1"]


async def test_what_gateways_tell_each_other_reaches_and_leaves_all_workers(
    tmp_path: Path, empty_database: Path, redis_server: Redis
) -> None:
    redis = pytest.importorskip("redis.asyncio")
    more = f"redis_url: {redis_server.url}\n"
    async with (
        serving(tmp_path, empty_database, URLS[0], more) as served,
        redis.from_url(redis_server.url) as client,
        client.pubsub() as news,
    ):
        await news.subscribe("onion-gateway")
        headers = {"authorization": f"Bearer {served.key}"}
        async with served.client.post(f"{served.url}/v1/admin/keys", json={"name": "b"}, headers=headers) as reply:
            assert reply.status == 200
        async with asyncio.timeout(PATIENCE_S):
            while (message := await news.get_message(ignore_subscribe_messages=True, timeout=1.0)) is None:
                pass
        assert orjson.loads(message["data"])["about"] == "keys"

        place = hashlib.sha256("\n".join(("away", *URLS)).encode()).hexdigest()
        aside = {"of": place, "place": 1, "is_of_key": False, "pause_s": 60, "why": "gone"}
        redis_server.run("PUBLISH", "onion-gateway", orjson.dumps({"about": "aside", "from": "x", **aside}).decode())
        await served.until(lambda: _says(served, 'gateway_addresses_up{model="away"} 1.0'))


async def _says(served: Served, line: str) -> bool:
    return line in str(await served.get("/metrics")).splitlines()
