"""Model servers on this machine: who they are, and that silent ones are not waited for."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from gateway.setup.servers import LOOK_S, addresses, find_servers, ollama_url
from gateway.transport.client import PooledClient
from tests.setup.servers import fake_gateway, fake_ollama, silent_server
from tests.upstream import upstream


@pytest.fixture
async def client() -> AsyncIterator[PooledClient]:
    client = PooledClient()
    yield client
    await client.close()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("0.0.0.0:11500", "http://127.0.0.1:11500/v1"),
        (":11500", "http://127.0.0.1:11500/v1"),
        ("box", "http://box:11434/v1"),
        ("http://box", "http://box:80/v1"),
        ("https://box/ollama/", "https://box:443/ollama/v1"),
        ("[::1]:1", "http://[::1]:1/v1"),
        ("ftp://box", None),
        ("box:port", None),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(host: str, url: str | None) -> None:
    assert ollama_url(host) == url


def test_a_bad_ollama_host_leaves_the_usual_address() -> None:
    usual = {"ollama": "http://127.0.0.1:11434/v1", "vllm": "http://127.0.0.1:8000/v1"}
    assert addresses(usual, {"OLLAMA_HOST": "box:port"}) == usual
    assert addresses(usual, {"OLLAMA_HOST": "box"})["ollama"] == "http://box:11434/v1"


async def test_an_ollama_is_found_with_its_models(client: PooledClient) -> None:
    async with fake_ollama() as url:
        (server,) = (await find_servers(client, {"ollama": url, "vllm": "http://127.0.0.1:9/v1"})).servers
    assert (server.kind, server.base_url) == ("ollama", url)
    chatting = {model.id for model in server.models if model.chats}
    assert chatting == {"qwen3:4b", "llama3.2-vision:11b"}
    seeing = server.model("llama3.2-vision:11b")
    assert seeing is not None and seeing.accepts is not None and "image" in seeing.accepts


@pytest.mark.parametrize("has_keys", [True, False])
async def test_another_gateway_is_not_taken_for_a_llama_server(client: PooledClient, has_keys: bool) -> None:
    async with fake_gateway(has_keys=has_keys) as url:
        found = await find_servers(client, {"llama-server": url})
    assert (found.servers, found.gateways) == ((), (url,))


async def test_any_openai_server_will_do(client: PooledClient) -> None:
    async with upstream({"text": "hi"}) as server:
        found = await find_servers(client, {"llama-server": server.url})
    assert len(found.servers) + len(found.notes) == 1 and not found.gateways


async def test_silent_servers_are_waited_for_together(client: PooledClient) -> None:
    async with silent_server() as one, silent_server() as two:
        started = time.monotonic()
        found = await find_servers(client, {"ollama": one, "vllm": two})
        took_s = time.monotonic() - started
    assert took_s < 2 * LOOK_S and not found.servers and len(found.notes) == 2
