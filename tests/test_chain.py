"""Gateways behind gateways, on real sockets: one deadline and one cost limit for all of them, and no way round."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
import pytest

from tests.asgi import Client
from tests.conftest import Serve
from tests.http.sockets import Listening, chat, listening, request

BAD = {"text": "bad"}
WANTS_GOOD = "checks: [{regex: good}]"


def gateway(behind: str | None = None, *, engine: str = "attach", extra: str = "", **own: Any) -> str:
    """models.yaml: a model of its own, priced, and the next gateway."""
    reply = orjson.dumps(own | ({} if "error" in own else {"usage": tokens(1)} | own)).decode()
    price = "price: {output_usd_per_mtok: 1000}, energy: {joules_per_token: 2}"
    entries = [f"own: {{engine: scripted, replies: [{reply}], {price}}}"]
    if behind is not None and engine == "attach":
        entries.append(f"next: {{engine: attach, url: '{behind}', model: auto, {extra}}}")
    elif behind is not None:
        where = f"base_url: '{behind}/v1', provider: onion-gateway"
        entries.append(f"next: {{engine: openai, {where}, model: auto, {extra}}}")
    return "models:\n  " + "\n  ".join(entries) + "\n"


def tokens(count: int) -> dict[str, int]:
    return {"prompt_tokens": 0, "completion_tokens": count, "total_tokens": count}


def outward(*, is_last: bool = False) -> str:
    tiers = "{model: own}" if is_last else f"{{model: own, {WANTS_GOOD}}}, {{model: next}}"
    return f"policy: default\nserves: [auto]\nroutes: [{{name: all, answer: {{cascade: [{tiers}]}}}}]\n"


@asynccontextmanager
async def chained(
    serve: Serve, last: dict[str, Any], *, engine: str = "attach", others: dict[str, Any] = BAD
) -> AsyncIterator[list[Client]]:
    """Three in a row, outermost first. Each asks its own model, whose answer is bad, and then the next gateway.
    `last`, `others`: what these models do."""
    async with AsyncExitStack() as running:
        clients: list[Client] = []
        behind: str | None = None
        for number in range(3):
            is_last = number == 0
            models = gateway(behind, engine=engine, **(last if is_last else others))
            clients.insert(0, await serve(models, default=outward(is_last=is_last)))
            async with asyncio.timeout(20):  # what the next one costs and keeps to is known once it was asked
                while not all(map(clients[0].runtime.pool.is_loaded, clients[0].gateway.engines)):
                    await asyncio.sleep(0.01)
            here = await running.enter_async_context(listening(clients[0]))
            behind = f"http://127.0.0.1:{here.port}"
        yield clients
        await hang_up(clients)


async def hang_up(clients: list[Client]) -> None:
    """Idle connections would keep the others from stopping."""
    for client in clients:
        await client.runtime.client.close()


def seen_by(client: Client) -> list[dict[str, str]]:
    """From now on, the headers of each chat that this gateway is sent."""
    seen: list[dict[str, str]] = []
    answer = type(client.gateway).answer

    async def noting(self: Any, asked: Any, *rest: Any, **more: Any) -> Any:
        seen.append(dict(asked.headers))
        return await answer(self, asked, *rest, **more)

    object.__setattr__(client.gateway, "answer", noting.__get__(client.gateway))
    return seen


@pytest.mark.parametrize("engine", ["attach", "openai"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_question_goes_outward_until_an_answer_is_good(serve: Serve, engine: str, stream: bool) -> None:
    async with chained(serve, {"text": "good"}, engine=engine) as (outer, middle, inner):
        seen = seen_by(inner)
        reply = await outer.chat(stream=stream, max_tokens=10)
        assert (reply.status, reply.text) == (200, "good")
        assert reply.gateway["path"] == "own!regex,next"
        each = 0.001  # a token of each of the three models
        assert reply.gateway["cost_usd"] == pytest.approx(3 * each)
        assert reply.gateway["energy_j"] == 3 * 2
        assert seen[0]["x-gateway-hops"] == "2" and len(seen[0]["x-gateway-session"]) == 32
        assert "x-gateway-deadline-s" not in seen[0] and "x-gateway-max-cost-usd" not in seen[0]
        await outer.chat(stream=stream, headers={"x-gateway-session": "mine"})
        assert seen[1]["x-gateway-session"] == "mine"


BROKEN = {"error": {"status": 500, "message": "broken"}}
SLOW = {"text": "good", "first_token_ms": 60_000}


@pytest.mark.parametrize("stream", [False, True])
async def test_one_deadline_holds_for_all(serve: Serve, stream: bool) -> None:
    async with chained(serve, SLOW, others=BROKEN) as (outer, middle, inner):
        seen = seen_by(inner)
        started = time.monotonic()
        reply = await outer.chat(stream=stream, headers={"x-gateway-deadline-s": "2"})
        took_s = time.monotonic() - started
        assert (reply.status, reply.error["code"]) == (504, "upstream_timeout")
        assert "model 'own' did not answer in time" in reply.error["message"], "the innermost says that it was late"
        assert 1.4 < took_s < 2.5
        left_s = float(seen[0]["x-gateway-deadline-s"])
        assert 1.4 < left_s < 1.8, "and early enough for its words to get through"
        assert len(inner.runtime.metrics._left) == 1, "it has ended there"


async def test_a_draft_that_is_there_is_answered_at_the_deadline(serve: Serve) -> None:
    async with chained(serve, SLOW) as (outer, middle, inner):
        started = time.monotonic()
        reply = await outer.chat(headers={"x-gateway-deadline-s": "2"})
        assert 1 < time.monotonic() - started < 2.5
        assert (reply.status, reply.text, reply.gateway["path"]) == (200, "bad", "own!regex,next")


async def test_one_cost_limit_holds_for_all(serve: Serve) -> None:
    async with chained(serve, {"text": "good " * 10, "usage": tokens(20)}) as chain:
        outer, middle, inner = chain
        seen = [seen_by(client) for client in chain]
        tight = {"x-gateway-max-cost-usd": "0.0125"}
        reply = await outer.chat(max_tokens=10, headers=tight)
        told = [[headers["x-gateway-max-cost-usd"] for headers in each] for each in seen]
        assert [len(each) for each in told] == [1, 1, 1]
        assert [float(each[0]) for each in told] == pytest.approx([0.0125, 0.0115, 0.0105])
        assert (reply.status, reply.text.strip()) == (200, " ".join(["good"] * 10))
        assert reply.gateway["cost_usd"] == pytest.approx(0.022), "an answer may be dearer than foreseen"

        refused = await outer.chat(max_tokens=10, headers={"x-gateway-max-cost-usd": "0.0115"})
        assert (refused.status, refused.text) == (200, "bad"), "the best draft that could be paid"
        assert refused.gateway["path"] == "own!regex,next!http_402" or "!" in refused.gateway["path"]
        assert refused.gateway["cost_usd"] == pytest.approx(0.002)


async def test_nobody_is_asked_once_the_limit_is_spent(serve: Serve) -> None:
    async with chained(serve, {"text": "good"}) as (outer, middle, inner):
        seen = seen_by(middle)
        reply = await outer.chat(max_tokens=1, headers={"x-gateway-max-cost-usd": "0.001"})
        assert (reply.text, reply.gateway["path"]) == ("bad", "own!regex,next!max_cost"), "the draft that was paid for"
        assert not seen
        refused = await outer.chat(max_tokens=2, headers={"x-gateway-max-cost-usd": "0.001"}, model="own")
        assert refused.status == 402


async def test_a_price_of_ones_own_counts_more(serve: Serve) -> None:
    inner = await serve(gateway(text="good"), default=outward(is_last=True))
    async with listening(inner) as here:
        url = f"http://127.0.0.1:{here.port}"
        for engine in ("attach", "openai"):
            models = gateway(url, engine=engine, text="bad", extra="price: {output_usd_per_mtok: 5000}")
            outer = await serve(models, default=outward())
            reply = await outer.chat(model="next")
            assert reply.gateway["cost_usd"] == pytest.approx(0.005)
            await hang_up([outer])


@asynccontextmanager
async def ring(serve: Serve, count: int, policy: Callable[[int], str]) -> AsyncIterator[list[tuple[Client, Listening]]]:
    """Each asks the next, and the last the first."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    urls = [f"http://127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
    async with AsyncExitStack() as running:
        found = []
        for number, listener in enumerate(listeners):
            two = f"['{urls[(number + 1) % count]}/v1', '{urls[(number + 2) % count]}/v1']"
            entry = f"next: {{engine: openai, provider: onion-gateway, base_url: {two}, model: auto}}"
            spare = "spare: {engine: scripted, replies: [{text: spare}], price: {}}"
            client = await serve(f"models:\n  {entry}\n  {spare}\n", default=policy(number))
            found.append((client, await running.enter_async_context(listening(client, listener=listener))))
        yield found
        await hang_up([client for client, _ in found])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tiers", ["{model: next}", "{model: next}, {model: spare}"])
async def test_a_ring_is_one_clear_error(serve: Serve, tiers: str, stream: bool) -> None:
    def policy(number: int) -> str:
        return f"policy: default\nserves: [auto]\nroutes: [{{name: all, answer: {{cascade: [{tiers}]}}}}]\n"

    async with ring(serve, 3, policy) as found:
        started = time.monotonic()
        reply = await found[0][1].ask(request(body=chat(stream=stream)))
        assert time.monotonic() - started < 2
        error = reply.json["error"]
        assert (reply.status, error["code"], error["type"]) == (508, "loop_detected", "invalid_request_error")
        assert error["message"] == "this request has passed 8 gateways: do they point at each other?"
        assert reply.headers["x-should-retry"] == "false", "SDKs try again what is 500 or more"
        for client, _ in found:
            leaf: Any = client.gateway.models["next"].responder
            assert leaf.balance.up == 2, "no address is to blame"
        metrics = [(await client.call("GET", "/metrics")).body.decode() for client, _ in found]
        assert sum(text.count('status="508"') for text in metrics) >= 3
        leaves: list[Any] = [client.gateway.models["next"].responder for client, _ in found]
        asked = sum(view.served for leaf in leaves for view in leaf.balance.views())
        assert asked == 8, "nobody tries it again"
