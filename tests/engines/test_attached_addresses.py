"""One model attached at several addresses: gateways that are killed, stopped and taken out of the file."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.live import Live
from gateway.probe import ProbeFailed, probe
from gateway.reload import Files, Reloader
from tests.asgi import Client
from tests.conftest import Serve, build_from, write_config
from tests.http.sockets import listening
from tests.servers import Double, llama_server, plain, serving
from tests.test_serve import Served, start_serving

SINGLE = "policy: default\nroutes: [{name: all, answer: {model: m}}]\n"
BEHIND = "models:\n  a: {engine: scripted, replies: [{text: one two three four, first_token_ms: 60, between_ms: 10}]}\n"


def models(*urls: str, model: str = "a", extra: str = "") -> str:
    listed = ", ".join(f"'{url}'" for url in urls)
    return f"models:\n  m: {{engine: attach, url: [{listed}], model: {model}, {extra}}}\n"


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.01)


def balance_of(client: Client) -> Any:
    leaf: Any = client.gateway.models["m"].responder
    return leaf.balance


@contextmanager
def gateways(folder: Path, count: int = 2) -> Iterator[list[Served]]:
    """In processes of their own."""
    homes = [folder / f"g{number}" / "home" for number in range(count)]
    for home in homes:
        home.mkdir(parents=True)
        write_config(home.parent, BEHIND, default=SINGLE.replace("model: m", "model: a"))
    with ThreadPoolExecutor(count) as pool:
        started = list(pool.map(lambda home: start_serving(home.parent, home), homes))
    try:
        yield started
    finally:
        for served in started:
            served.process.kill()
            served.process.wait(10)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGKILL, id="killed", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, id="stopped", marks=pytest.mark.slow),
    ],
)
async def test_a_gateway_that_goes_away_fails_no_request(tmp_path: Path, serve: Serve, how: signal.Signals) -> None:
    """But for streams that had begun, where it was killed: those are loud."""
    with gateways(tmp_path) as (one, two):
        client = await serve(models(one.url, two.url), default=SINGLE)
        await until(lambda: balance_of(client).up == 2)
        done, begun = [], 0

        async def ask(number: int) -> None:
            nonlocal begun
            stream = number % 4 == 0
            call = client.start_chat(f"question {number}", stream=stream, model="m")
            reply = await call.done()
            if stream and "error" in reply.events[-1]:
                begun += 1
                assert reply.text, "it had begun"
            else:
                assert (reply.status, reply.text) == (200, "one two three four"), reply.body
            done.append(number)

        async with asyncio.TaskGroup() as tasks:
            for worker in range(8):

                async def work(first: int = worker) -> None:
                    for number in range(first, 80, 8):
                        await ask(number)

                tasks.create_task(work())
            await until(lambda: len(done) > 20)
            one.process.send_signal(how)
        assert len(done) == 80
        assert begun <= (8 if how is signal.SIGKILL else 0)
        served = [view.served for view in balance_of(client).views()]
        assert served[0] > 8 and served[1] > 40


SLOW = "models:\n  a: {engine: scripted, replies: [{text: one two three four, between_ms: 200}]}\n"


async def test_a_gateway_that_stops_gets_no_new_requests_while_open_ones_finish(serve: Serve) -> None:
    async with AsyncExitStack() as running:
        behind = [await serve(text, default=SINGLE.replace("model: m", "model: a")) for text in (SLOW, BEHIND)]
        ports = [(await running.enter_async_context(listening(client))).port for client in behind]
        client = await serve(models(*(f"http://127.0.0.1:{port}" for port in ports)), default=SINGLE)
        balance = balance_of(client)
        await until(lambda: balance.up == 2)
        call = client.start_chat("slow one", stream=True)
        await call.wrote.wait()
        behind[0].live.is_draining = True
        others = await asyncio.gather(*(client.chat(f"other {number}") for number in range(4)))
        assert [reply.text for reply in others] == ["one two three four"] * 4
        paths = {reply.gateway["path"] for reply in others}
        assert paths == {"m", "m!http_503,m"} and balance.up == 1
        served = [view.served for view in balance.views()]
        await asyncio.gather(*(client.chat(f"more {number}") for number in range(4)))
        assert [view.served for view in balance.views()] == [served[0], served[1] + 4]
        assert [view.open for view in balance.views()] == [1, 0]
        assert (await call.done()).text == "one two three four"

        with pytest.raises(ProbeFailed, match="is being stopped"):
            await probe(client.runtime.client, f"http://127.0.0.1:{ports[0]}")
        behind[0].live.is_draining = False
        balance._now = lambda clock=balance._now: clock() + 5
        assert balance.up == 2
        assert (await client.chat("and now")).gateway["path"] == "m" and balance.views()[0].served == served[0] + 1
        await client.runtime.client.close()


def gated(double: Double, gate: asyncio.Event, asked: asyncio.Event | None = None) -> Double:
    """One that answers chats once it may."""
    answer = double.answer

    async def late(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            if asked is not None:
                asked.set()
            await gate.wait()
        return await answer(request)

    double.answer = late  # type: ignore[method-assign]
    return double


async def test_the_first_requests_wait_for_an_address_to_be_known(serve: Serve) -> None:
    async with serving(plain("a")) as double:
        client = await serve(models("http://127.0.0.1:9", double.url), default=SINGLE)
        replies = await asyncio.gather(*(client.chat(f"question {number}") for number in range(6)))
        assert [reply.status for reply in replies] == [200] * 6


async def test_none_there_is_one_error(serve: Serve) -> None:
    async with serving(plain("b")) as double:
        client = await serve(models("http://127.0.0.1:9", double.url), default=SINGLE)
        await client.chat()
        await until(lambda: balance_of(client).up == 0)
        reply = await client.chat()
        assert (reply.status, reply.headers["x-gateway-path"]) == (503, "m!unavailable")
        assert reply.error["message"].startswith("model 'm': none of its 2 addresses answers (its server ")
        assert int(reply.headers["retry-after"]) >= 1 and "127.0.0.1" not in reply.body.decode()


async def test_each_server_is_asked_in_its_own_way(serve: Serve) -> None:
    async with AsyncExitStack() as running:
        doubles = [
            await running.enter_async_context(serving(double)) for double in (llama_server("a", slots=2), plain("a"))
        ]
        client = await serve(models(*(double.url for double in doubles)), default=SINGLE)
        await until(lambda: balance_of(client).up == 2)
        for number in range(4):
            assert (await client.chat(f"question {number}")).status == 200
        streams = [[body.get("stream", False) for body in double.bodies] for double in doubles]
        assert streams == [[True, True], [False, False]], "llama-server is always asked for a stream"
        card = (await client.call("GET", "/v1/models/m")).json["gateway"]
        assert (card["addresses"], card["addresses_up"]) == (2, 2)
        assert (await client.call("GET", "/readyz")).json["models"] == {"m#1": "warm", "m#2": "warm"}


async def test_only_looked_at_nothing_is_said_of_who_answers(tmp_path: Path) -> None:
    gateway, _ = build_from(tmp_path, models("http://127.0.0.1:9", "http://127.0.0.1:8"), default=SINGLE)
    card = gateway.models["m"].card
    assert card["addresses"] == 2 and "addresses_up" not in card


async def test_places_are_taken_at_each_address(serve: Serve) -> None:
    async with AsyncExitStack() as running:
        gate = asyncio.Event()
        doubles = [await running.enter_async_context(serving(gated(plain("a"), gate))) for _ in range(2)]
        client = await serve(models(*(double.url for double in doubles), extra="slots: 1"), default=SINGLE)
        await until(lambda: balance_of(client).up == 2)
        calls = [client.start_chat(f"question {number}") for number in range(12)]
        async with asyncio.timeout(5):
            refused = [await calls[10].done(), await calls[11].done()]
        assert [reply.status for reply in refused] == [429, 429], "one each, four wait for each"
        gate.set()
        assert [(await call.done()).status for call in calls[:10]] == [200] * 10


@pytest.fixture
async def reloadable(tmp_path: Path, home: Path) -> AsyncIterator[Callable[[str], Any]]:
    """`client, reload = await start(models)`; `await reload(models)`."""
    running: list[Any] = []

    async def start(text: str) -> tuple[Client, Callable[[str], Any]]:
        gateway, runtime = build_from(tmp_path, text, default=SINGLE)
        live = Live(gateway, runtime.pool)
        files = Files(tmp_path / "models.yaml", tmp_path / "policies", lambda config, unwanted: None)
        served, config = files.read()
        reloader = Reloader(live, runtime, files, served, config.scripts)
        await runtime.start()
        running.append(runtime)

        async def reload(text: str) -> None:
            write_config(tmp_path, text, default=SINGLE)
            await reloader.reload()
            assert live.stale_why is None

        return Client(live, runtime), reload

    yield start
    for runtime in running:
        await runtime.close()


async def test_an_address_that_is_taken_out_finishes_what_it_has_begun(reloadable: Callable[[str], Any]) -> None:
    async with AsyncExitStack() as running:
        gate, asked = asyncio.Event(), asyncio.Event()
        first, second = gated(plain("a"), gate, asked), plain("a")
        doubles = [await running.enter_async_context(serving(double)) for double in (first, second)]
        urls = [double.url for double in doubles]
        client, reload = await reloadable(models(*urls))
        await until(lambda: balance_of(client).up == 2)
        balance = balance_of(client)
        await reload(models(*urls) + "  spare: {engine: scripted, replies: [{text: x}]}\n")
        assert balance_of(client) is balance, "what is known of the addresses outlives a reload"
        call = client.start_chat("slow")
        await asyncio.wait_for(asked.wait(), 5)
        await reload(models(urls[1]))
        assert (await client.chat("other")).status == 200 and len(doubles[1].bodies) == 1
        assert list(client.runtime.pool.states()) == ["m"]
        gate.set()
        assert (await call.done()).status == 200
        assert len(doubles[0].bodies) == 1
