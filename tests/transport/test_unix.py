"""Upstreams on Unix sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from gateway.errors import ConfigError
from gateway.transport import ConnectFailed
from gateway.transport.client import PooledClient
from tests.conftest import Serve, build_from
from tests.transport.raw import OK, WAIT_S, Peer, answering, upstream
from tests.upstream import SINGLE


async def test_a_unix_socket_is_an_address(client: PooledClient, tmp_path: Path) -> None:
    async with upstream(answering(OK), path=tmp_path / "a model.sock") as server:
        for _ in range(2):
            reply = await client.post(f"{server.url}/v1/chat?x=1", {}, b"{}", connect_s=WAIT_S)
            assert await reply.read(10) == b"ok"
            reply.close()
        assert server.connections == 1
    assert server.heads[0].startswith(b"POST /v1/chat?x=1 HTTP/1.1\r\nhost: localhost\r\n")


async def test_proxies_have_no_say_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:1")
    monkeypatch.setenv("all_proxy", "http://proxy.invalid:1")
    client = PooledClient()
    async with upstream(answering(OK), path=tmp_path / "s") as server:
        reply = await client.get(server.url, {}, connect_s=WAIT_S)
        assert await reply.read(10) == b"ok"
        reply.close()
    await client.close()


@pytest.mark.parametrize("path", ["no-such.sock", "", "x" * 200, "a\0b"])
async def test_a_socket_that_is_not_there(client: PooledClient, tmp_path: Path, path: str) -> None:
    address = str(tmp_path / path).replace("/", "%2F").replace("\0", "%00") if path else ""
    with pytest.raises(ConnectFailed):
        await client.get(f"http+unix://{address}/v1", {}, connect_s=WAIT_S)


async def test_a_model_behind_a_unix_socket_answers_and_streams(serve: Serve, tmp_path: Path) -> None:
    delta = {"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]}
    message = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}

    async def handle(peer: Peer) -> None:
        while (body := await peer.request()) is not None:
            if orjson.loads(body).get("stream"):
                said, kind = b"data: %b\n\ndata: [DONE]\n\n" % orjson.dumps(delta), b"text/event-stream"
            else:
                said, kind = orjson.dumps(message), b"application/json"
            head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (kind, len(said))
            await peer.say(head + said)

    async with upstream(handle, path=tmp_path / "m.sock") as server, asyncio.timeout(WAIT_S):
        client = await serve(
            f"models: {{m1: {{engine: openai, base_url: '{server.url}/v1', model: up}}}}", default=SINGLE
        )
        answer = await client.chat()
        assert (answer.status, answer.text) == (200, "hi")
        assert (await client.chat(stream=True)).text == "hi"
    assert all(head.startswith(b"POST /v1/chat/completions ") for head in server.heads)


async def test_a_server_on_a_unix_socket_can_be_attached(serve: Serve, tmp_path: Path) -> None:
    message = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}

    async def handle(peer: Peer) -> None:
        while (body := await peer.request()) is not None:
            said = orjson.dumps(message if body else {"object": "list", "data": [{"id": "up", "object": "model"}]})
            status = b"200 OK" if body or b"GET /v1/models HTTP" in peer.server.heads[-1] else b"404 Not Found"
            await peer.say(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n" % (status, len(said)) + said)

    async with upstream(handle, path=tmp_path / "m.sock") as server, asyncio.timeout(WAIT_S):
        client = await serve(
            f"models: {{m1: {{engine: attach, url: '{server.url}', kind: openai, model: up}}}}", default=SINGLE
        )
        for _ in range(100):
            answer = await client.chat()
            if answer.status == 200:
                break
            await asyncio.sleep(0.02)
        assert answer.text == "hi"


@pytest.mark.parametrize("address", ["http+unix://run/m.sock", "http+unix:///run/m.sock", "http+unix://%2Frun@h/v1"])
def test_an_address_without_a_whole_path_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        build_from(tmp_path, f"models: {{m1: {{engine: openai, base_url: '{address}', model: up}}}}", default=SINGLE)
