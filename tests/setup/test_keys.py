"""API keys in the environment: what their providers say to them, and that they are seen nowhere else."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from gateway.providers import Provider
from gateway.setup import keys
from gateway.setup.keys import FoundKey, find_keys, model_ids
from gateway.setup.preferences import LITELLM_PROVIDERS, PREFERENCES, pick
from gateway.transport.client import PooledClient
from tests.setup.servers import fake_providers, silent_server

KEYS = {"OPENAI_API_KEY": "sk-secret\n", "ANTHROPIC_API_KEY": "sk-ant-secret"}


@pytest.fixture
async def client() -> AsyncIterator[PooledClient]:
    client = PooledClient()
    yield client
    await client.close()


async def ask(client: PooledClient, *, openai: list[str] | int, anthropic: list[str] | int) -> dict[str, FoundKey]:
    async with fake_providers(openai=openai, anthropic=anthropic) as (one, two, asked):
        found = await find_keys(client, KEYS, [one], [two])
    assert sorted(asked.keys) == ["Bearer sk-secret", "sk-ant-secret"]
    assert "secret" not in repr(found)
    return {key.provider: key for key in found}


async def test_a_valid_key_gets_a_model_of_its_list(client: PooledClient) -> None:
    found = await ask(
        client,
        openai=["text-embedding-3-small", "gpt-5-mini-2025-08-07", "gpt-4o-mini"],
        anthropic=["claude-opus-4-5", "claude-sonnet-4-5-20250929"],
    )
    assert (found["openai"].state, found["openai"].model) == ("valid", "gpt-5-mini-2025-08-07")
    assert found["anthropic"].model == "anthropic/claude-sonnet-4-5-20250929"
    assert found["anthropic"].engine == "litellm" and found["openai"].is_listed


async def test_a_refused_key_is_called_so(client: PooledClient) -> None:
    found = await ask(client, openai=401, anthropic=403)
    assert [key.state for key in found.values()] == ["refused", "refused"]
    assert found["openai"].model == "gpt-5-mini", "the known one"


async def test_other_answers_say_nothing_about_the_key(client: PooledClient) -> None:
    found = await ask(client, openai=500, anthropic=429)
    assert [key.state for key in found.values()] == ["unchecked", "unchecked"]
    assert "500" in found["openai"].why


async def test_providers_that_cannot_be_reached_are_not_waited_for(
    client: PooledClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "LIST_S", 0.5)
    environ = {name: "k" for name in ("A", "B", "C")}
    async with silent_server() as url:
        providers = [
            Provider("a", url, "A"),
            Provider("b", "https://does-not-exist.invalid/v1", "B"),
            Provider("c", "https://{resource}.example.com/v1", "C"),
        ]
        started = time.monotonic()
        found = await find_keys(client, environ, providers, [])
    assert time.monotonic() - started < 3  # the look-up of a name has 2 s of its own
    assert {key.state for key in found} == {"unchecked"} and all(key.model is None for key in found)


async def test_without_probing_nobody_is_asked(client: PooledClient) -> None:
    async with fake_providers(openai=["gpt-5"], anthropic=["x"]) as (one, two, asked):
        found = await find_keys(client, KEYS, [one], [two], checks=False)
    assert asked.paths == [] and [key.state for key in found] == ["unchecked", "unchecked"]


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        (b'{"data": [{"id": "a"}, {"id": 3}, "x"]}', ["a"]),
        (b'{"models": [{"name": "models/g", "supportedGenerationMethods": ["generateContent"]}]}', ["g"]),
        (b'{"models": [{"name": "models/e", "supportedGenerationMethods": ["embedContent"]}]}', []),
        (
            b'{"models": [{"name": "command-a", "endpoints": ["chat"]}, {"name": "e", "endpoints": ["embed"]}]}',
            ["command-a"],
        ),
        (b'[{"id": "together", "type": "chat"}, {"id": "flux", "type": "image"}]', ["together"]),
        (b"<html>", []),
        (b"[" * 100_000, []),
        (b"null", []),
    ],
)
def test_lists_of_every_shape_are_read(body: bytes, ids: list[str]) -> None:
    assert model_ids(body) == ids


def test_without_a_preferred_model_the_first_that_chats_is_taken() -> None:
    assert pick(["text-embedding-3", "whisper-1", "new-model"], ["gpt-5"]) == "new-model"
    assert pick(["dall-e-3"], ["gpt-5"]) is None
    assert pick([], ["gpt-5"]) is None


def test_every_litellm_provider_has_a_preference() -> None:
    assert {provider.name for provider in LITELLM_PROVIDERS} <= set(PREFERENCES)
