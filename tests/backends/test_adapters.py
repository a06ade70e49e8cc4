"""`lora`: what a client may ask of adapters, what the servers are sent, and what is left out and said to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.backends.adapters import NO_ADAPTERS, Adapters
from gateway.backends.openai import OpenAIBackend, Standing
from gateway.chat import Answer, ChatRequest
from gateway.chunks import Chunk
from gateway.engines import Lease
from gateway.errors import InvalidRequest
from gateway.providers import LLAMA_SERVER
from gateway.trace import RequestTrace
from gateway.transport.client import PooledClient
from tests.conftest import Serve
from tests.servers import Double, llama_server, ollama, plain, serving, vllm

TWO = Adapters({"dates": 1.0, "tone": 0.5})
DATES = Adapters(TWO.scales, own="dates")
POLICY = "policy: default\nroutes: [{name: all, answer: {model: m}}]\n"


def scales(adapters: Adapters, wanted: Any = None) -> list[float]:
    listed = adapters.listed(wanted, "core")
    assert [entry["id"] for entry in listed] == list(range(len(adapters.scales)))
    return [entry["scale"] for entry in listed]


def test_every_adapter_is_always_named() -> None:
    assert scales(TWO) == [0, 0] and scales(TWO, []) == [0, 0]
    assert scales(DATES) == [1, 0] and scales(DATES, []) == [0, 0]


def test_the_clients_list_wins_and_may_use_names_or_numbers() -> None:
    assert scales(DATES, [{"id": "tone", "scale": 0.25}]) == [0, 0.25]
    assert scales(DATES, [{"id": 1, "scale": -2}, {"id": "dates", "scale": 0}]) == [0, -2]
    assert scales(DATES, [{"id": "tone"}, {"id": "dates", "scale": None}]) == [1, 0.5], "where no scale is said"


WRONG = {
    "no list": ({"id": 0}, "list"),
    "a word": ("dates", "list"),
    "no object": (["dates"], r"lora\[0\]"),
    "no id": ([{"scale": 1}], r"lora\[0\]"),
    "a truth for an id": ([{"id": 0}, {"id": True}], r"lora\[1\]"),
    "a fraction for an id": ([{"id": 0.0}], r"lora\[0\]"),
    "a word for a scale": ([{"id": 0, "scale": "1"}], "finite"),
    "endless": ([{"id": 0, "scale": float("inf")}], "finite"),
    "no number": ([{"id": 0, "scale": float("nan")}], "finite"),
    "unknown name": ([{"id": "date"}], "no adapter 'date'; there are: 'dates', 'tone'"),
    "unknown number": ([{"id": 2}], "no adapter 2; there are"),
    "below the first": ([{"id": -1}], "no adapter -1"),
}


@pytest.mark.parametrize(("wanted", "says"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_asked_is_refused(wanted: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        TWO.listed(wanted, "core")
    assert (caught.value.param, caught.value.status) == ("lora", 400)


async def discard(chunk: Chunk) -> None:
    pass


class Leaf:
    """A leaf of a server of ours, which is a double."""

    def __init__(self, double: Double, adapters: Adapters, **options: Any) -> None:
        self.double, self.client = double, PooledClient()
        lease = Lease(f"{double.url}/v1", "key", "core")
        options = {"provider": LLAMA_SERVER, "adapters": adapters, **options}
        self.leaf = OpenAIBackend(name="m", client=self.client, take_lease=Standing(lease), **options)
        self.trace = RequestTrace("t")

    async def ask(self, **fields: Any) -> Answer:
        request = ChatRequest({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})
        try:
            return await self.leaf.respond(request, discard, self.trace)
        finally:
            await self.client.close()

    @property
    def dropped(self) -> tuple[str, ...]:
        return tuple(name for hop in self.trace.models() for name in hop.dropped)


async def test_a_server_of_ours_is_sent_numbers() -> None:
    async with serving(llama_server("core")) as double:
        for fields in ({}, {"lora": [{"id": "tone", "scale": 0.1}]}, {"lora": None}):
            await Leaf(double, DATES).ask(**fields)
    sent = [[entry["scale"] for entry in body["lora"]] for body in double.bodies]
    assert sent == [[1, 0], [0, 0.1], [1, 0]]


async def test_defaults_choose_adapters_too() -> None:
    async with serving(llama_server("core")) as double:
        blend = {"lora": [{"id": "dates", "scale": 0.5}, {"id": "tone"}]}
        await Leaf(double, TWO, defaults=blend).ask()
        await Leaf(double, TWO, defaults=blend).ask(lora=[])
    assert [[entry["scale"] for entry in body["lora"]] for body in double.bodies] == [[0.5, 0.5], [0, 0]]


async def test_a_server_of_ours_without_adapters_is_not_sent_any() -> None:
    async with serving(llama_server("core")) as double:
        plain_one, asked, empty = (Leaf(double, NO_ADAPTERS) for _ in range(3))
        await plain_one.ask()
        await asked.ask(lora=[{"id": "dates"}])
        await empty.ask(lora=[])
    assert not any("lora" in body for body in double.bodies)
    assert (plain_one.dropped, asked.dropped, empty.dropped) == ((), ("lora",), ())


async def test_what_is_wrong_is_refused_before_the_server_is_asked() -> None:
    async with serving(llama_server("core")) as double:
        with pytest.raises(InvalidRequest):
            await Leaf(double, TWO).ask(lora=[{"id": "date"}])
    assert double.bodies == []


SERVERS: dict[str, tuple[Callable[[], Double], bool]] = {
    "llama-server": (lambda: llama_server("a"), True),
    "openai": (lambda: plain("a"), True),
    "ollama": (lambda: ollama(), False),
    "vllm": (lambda: vllm("a"), False),
}


@pytest.mark.parametrize("kind", SERVERS)
async def test_what_others_run_is_sent_numbers_as_they_are_or_nothing(serve: Serve, kind: str) -> None:
    make, is_sent = SERVERS[kind]
    wanted = [{"id": 3, "scale": 0.5}]
    async with serving(make()) as double:
        entry = f"{{engine: openai, provider: {kind}, base_url: '{double.url}/v1', model: a}}"
        if kind in ("openai", "llama-server"):
            entry = f"{{engine: attach, url: '{double.url}', model: a}}"
        client = await serve(f"models: {{m: {entry}}}", default=POLICY)
        reply = await client.chat(lora=wanted)
        assert reply.status == 200, reply.body
        assert double.bodies[0].get("lora") == (wanted if is_sent else None)
        assert reply.headers.get("x-gateway-dropped") == (None if is_sent else "lora")


async def test_an_attached_llama_server_knows_no_names(serve: Serve) -> None:
    """It would answer as if nothing had been asked for."""
    async with serving(llama_server("a")) as double:
        client = await serve(f"models: {{m: {{engine: attach, url: '{double.url}', model: a}}}}", default=POLICY)
        for wanted in ([{"id": "dates"}], "dates", [{"id": 0, "scale": "1"}]):
            reply = await client.chat(lora=wanted)
            assert (reply.status, reply.error["param"]) == (400, "lora"), reply.body
        assert double.bodies == []
