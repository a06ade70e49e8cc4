"""Routes that are built when the server listens already."""

import asyncio
import subprocess
import sys
from collections.abc import MutableMapping
from typing import Any

import pytest

from gateway.api.asgi import App, Receive, Scope, Send
from gateway.api.deferred import Deferred
from tests.conftest import Serve

ON_THE_WAY = """
import sys, gateway.serve, gateway.http_server, gateway.api.app, gateway.access.keys
heavy = {'fastapi', 'aiohttp', 'litellm', 'alembic', 'onnxruntime', 'sqlalchemy.dialects.postgresql'}
print(*sorted(heavy & set(sys.modules)))
"""


async def test_it_is_built_once_and_a_leaving_client_stops_nothing() -> None:
    built: list[int] = []
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["path"])

    def build() -> App:
        built.append(1)
        return app

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError

    async def send(message: MutableMapping[str, Any]) -> None:
        raise AssertionError

    deferred = Deferred(build)
    calls = [asyncio.create_task(_call(deferred, path, receive, send)) for path in ("/gone", "/a", "/b")]
    await asyncio.sleep(0)
    calls[0].cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await deferred({"path": "/c"}, receive, send)
    assert built == [1]
    assert seen == ["/a", "/b", "/c"]


async def _call(app: Deferred, path: str, receive: Receive, send: Send) -> None:
    await app({"path": path}, receive, send)


async def test_what_cannot_be_built_fails_the_request_and_is_tried_again() -> None:
    tries: list[int] = []

    def build() -> App:
        tries.append(1)
        raise RuntimeError("no room")

    deferred = Deferred(build)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no room"):
            await deferred.built()
    assert len(tries) == 2


def test_the_way_to_listening_imports_nothing_heavy_that_can_wait() -> None:
    done = subprocess.run([sys.executable, "-c", ON_THE_WAY], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_operations_can_be_asked_with_head_and_say_which_methods_they_take(serve: Serve, path: str) -> None:
    client = await serve("models: {m: {engine: scripted, replies: [{text: hello}]}}")
    assert (await client.call("HEAD", path)).status == 200
    refused = await client.call("POST", path)
    assert refused.status == 405
    assert refused.headers["allow"] == "GET, HEAD"
