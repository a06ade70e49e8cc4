"""A model with several addresses: requests go on where they were not worked on, and nowhere else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import Any

import orjson
import pytest
from aiohttp import web

from gateway.backends.balanced import BalancedBackend
from tests.conftest import Serve
from tests.servers import Double, Json, Reply, plain, serving, whole

SINGLE = "policy: default\nroutes: [{name: all, answer: {model: m}}]\n"
CASCADE = "policy: default\nroutes: [{name: all, answer: {cascade: [{model: m}, {model: n}]}}]\n"
STOPPING = {"error": {"message": "the server is stopping", "type": "server_error", "code": "upstream_unavailable"}}


def models(*urls: str, extra: str = "") -> str:
    listed = ", ".join(f"'{url}/v1'" for url in urls)
    extra = extra or "retries: 0"
    entry = f"m: {{engine: openai, base_url: [{listed}], model: a, {extra}}}"
    return f"models:\n  {entry}\n  n: {{engine: scripted, replies: [{{text: from n}}]}}\n"


def free_url() -> str:
    """Where nobody listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def answers(text: str) -> Double:
    return plain("a", say=lambda body: Reply(whole=whole(text)))


def refuses(status: int, body: Any = None, **headers: str) -> Double:
    said = body or {"error": {"message": "not now", "type": "server_error"}}
    return plain("a", say=lambda _: Reply(whole=said, status=status, headers=headers))


@asynccontextmanager
async def servers(*doubles: Double) -> AsyncIterator[list[str]]:
    async with AsyncExitStack() as running:
        yield [(await running.enter_async_context(serving(double))).url for double in doubles]


def balance_of(client: Any) -> Any:
    leaf = client.gateway.models["m"].responder
    assert isinstance(leaf, BalancedBackend)
    return leaf.balance


async def test_each_address_gets_its_share_with_its_own_key(serve: Serve) -> None:
    doubles = [plain("a", key="k1"), plain("a", key="k2")]
    async with servers(*doubles) as (one, two):
        entry = f"m: {{engine: openai, base_url: ['{one}/v1', {{url: '{two}/v1', key: k2}}], api_key: k1, model: a}}"
        client = await serve(f"models:\n  {entry}\n", default=SINGLE)
        for number in range(6):
            assert (await client.chat(f"question {number}")).status == 200
        assert [len(double.bodies) for double in doubles] == [3, 3]


async def test_a_conversation_stays_where_it_was(serve: Serve) -> None:
    doubles = [plain("a"), plain("a"), plain("a")]
    async with servers(*doubles) as urls:
        client = await serve(models(*urls), default=SINGLE)
        for number in range(3):
            await client.chat(f"other {number}")
        system = {"role": "system", "content": "Be brief."}
        talk = [system, {"role": "user", "content": "hello"}]
        for _ in range(3):
            await client.chat(messages=talk)
            talk = [*talk, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "go on"}]
        assert sorted(len(double.bodies) for double in doubles) == [1, 1, 4]
        before = [len(double.bodies) for double in doubles]
        for number in range(3):
            await client.chat(f"unlike {number}", headers={"x-gateway-session": "mine"})
        after = [len(double.bodies) for double in doubles]
        assert sorted(now - then for now, then in zip(after, before, strict=True)) == [0, 0, 3], "by its session"


@pytest.mark.parametrize(
    ("broken", "left_as"),
    [
        (None, "unavailable"),
        (lambda: refuses(503), "http_503"),
        (lambda: refuses(503, ["down"]), "bad_reply"),
        (lambda: refuses(429), "http_429"),
        (lambda: refuses(503, STOPPING, connection="close"), "http_503"),
    ],
    ids=["nobody listens", "503", "503 odd", "429", "stopping"],
)
async def test_a_request_that_was_not_worked_on_goes_to_the_next(
    serve: Serve, broken: Callable[[], Double] | None, left_as: str
) -> None:
    async with servers(answers("good"), *([broken()] if broken else [])) as urls:
        first = urls[1] if broken else free_url()
        client = await serve(models(first, urls[0]), default=SINGLE)
        for stream in (False, True):
            reply = await client.chat(f"hello {stream}", stream=stream)
            assert (reply.status, reply.text) == (200, "good")
            path = reply.gateway["path"]
            assert path == (f"m!{left_as},m" if not stream else "m"), "the second goes to the good one at once"


@pytest.mark.parametrize(("status", "is_aside"), [(502, True), (504, True), (500, False), (400, False), (422, False)])
async def test_a_request_that_may_have_been_worked_on_does_not(serve: Serve, status: int, is_aside: bool) -> None:
    other = answers("good")
    async with servers(refuses(status), other) as urls:
        client = await serve(models(*urls), default=SINGLE)
        reply = await client.chat()
        assert reply.status == status and not other.bodies
        assert balance_of(client).up == (1 if is_aside else 2)
        outward = await serve(models(*urls), default=CASCADE)
        assert (await outward.chat()).headers["x-gateway-path"].endswith(",n")


async def test_a_model_that_fails_behind_a_gateway_is_not_the_fault_of_its_address(serve: Serve) -> None:
    late = {
        "error": {"message": "model 'x' did not answer in time", "type": "server_error", "code": "upstream_timeout"}
    }
    async with servers(refuses(504, late), answers("good")) as urls:
        client = await serve(models(*urls), default=SINGLE)
        assert (await client.chat()).status == 504 and balance_of(client).up == 2


def cuts(after: int = 0) -> Double:
    """Breaks the connection off: before a word, or after some chunks."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if not request.path.endswith("/completions"):
            return await Double.answer(double, request)
        double.bodies.append(await request.json())
        assert request.transport is not None
        if not after:
            request.transport.abort()
            return web.Response()
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(after):
            await response.write(b'data: {"choices":[{"index":0,"delta":{"content":"word "}}]}\n\n')
        request.transport.close()
        return response

    double = plain("a")
    double.answer = answer  # type: ignore[method-assign]
    return double


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_dies_over_a_request_before_a_word_of_it(serve: Serve, stream: bool) -> None:
    async with servers(cuts(), answers("good")) as urls:
        client = await serve(models(*urls), default=SINGLE)
        reply = await client.chat(stream=stream)
        assert (reply.status, reply.text) == (200, "good")
        assert reply.gateway["path"] == "m!bad_reply,m"
        assert reply.gateway["usage"]["input_tokens"] > 9, "what was sent there counts too"


async def test_after_a_word_it_is_loud(serve: Serve) -> None:
    other = answers("good")
    async with servers(cuts(after=2), other) as urls:
        client = await serve(models(*urls), default=CASCADE)
        reply = await client.chat(stream=True)
        assert "error" in reply.events[-1] and not other.bodies


async def test_a_request_that_breaks_servers_is_not_sent_to_all_of_them(serve: Serve) -> None:
    doubles = [cuts() for _ in range(4)]
    async with servers(*doubles) as urls:
        client = await serve(models(*urls), default=SINGLE)
        reply = await client.chat()
        assert (reply.status, reply.error["code"]) == (502, "bad_upstream_reply")
        assert sum(len(double.bodies) for double in doubles) == 2


async def test_all_away_is_one_error(serve: Serve) -> None:
    client = await serve(models(free_url(), free_url()), default=SINGLE)
    for tries in (2, 0):
        reply = await client.chat()
        assert (reply.status, reply.error["code"]) == (503, "upstream_unavailable")
        assert reply.error["message"] == "model 'm': none of its 2 addresses answers (cannot be reached)"
        assert int(reply.headers["retry-after"]) == 1 and reply.headers["x-should-retry"] == "true"
        assert reply.headers["x-gateway-path"] == ",".join(["m!unavailable"] * max(1, tries))
    outward = await serve(models(free_url(), free_url()), default=CASCADE)
    assert (await outward.chat()).text == "from n"


async def test_all_busy_says_so_in_the_upstreams_words(serve: Serve) -> None:
    slow = {"error": {"message": "slow down", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}
    doubles = [refuses(429, slow, **{"retry-after": "7"}) for _ in range(2)]
    async with servers(*doubles) as urls:
        client = await serve(models(*urls), default=SINGLE)
        for _ in range(2):  # a busy address is asked where there is no other
            reply = await client.chat()
            assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (
                429,
                "rate_limit_exceeded",
                "7",
            )


async def test_it_comes_back(serve: Serve) -> None:
    away = free_url()
    async with servers(answers("good")) as (url,):
        client = await serve(models(away, url), default=SINGLE)
        await client.chat("first")
        balance = balance_of(client)
        assert balance.up == 1
        balance._now = lambda clock=balance._now: clock() + 2
        async with serving(answers("back"), int(away.rpartition(":")[2])):
            assert (await client.chat("second")).text == "back"
        assert balance.up == 2


async def test_open_requests_are_spread_and_counted(serve: Serve) -> None:
    may_answer = asyncio.Event()

    def slow(double: Double) -> Double:
        answer = double.answer

        async def later(request: web.Request) -> web.StreamResponse:
            await may_answer.wait()
            return await answer(request)

        double.answer = later  # type: ignore[method-assign]
        return double

    doubles = [slow(plain("a")), slow(plain("a"))]
    async with servers(*doubles) as urls:
        client = await serve(models(*urls), default=SINGLE)
        calls = [client.start_chat("the same") for _ in range(8)]
        balance = balance_of(client)
        async with asyncio.timeout(5):
            while sum(view.open for view in balance.views()) < 8:
                await asyncio.sleep(0.01)
        assert sorted(view.open for view in balance.views()) in ([3, 5], [4, 4])
        calls.pop().leave()
        may_answer.set()
        assert all([(await call.done()).status == 200 for call in calls])
        async with asyncio.timeout(5):
            while any(view.open for view in balance.views()):
                await asyncio.sleep(0.01)


async def test_what_is_seen_of_it(serve: Serve) -> None:
    async with servers(answers("good")) as (url,):
        client = await serve(models(free_url(), url), default=SINGLE)

        async def card() -> Json:
            found: Json = (await client.call("GET", "/v1/models/m")).json["gateway"]
            return found

        assert (await card())["addresses"] == 2 and "addresses_up" not in await card()
        reply = await client.chat()
        shown = await card()
        assert (shown["addresses"], shown["addresses_up"]) == (2, 1)
        assert url not in str(shown)
        metrics = (await client.call("GET", "/metrics")).body.decode()
        assert 'gateway_addresses_up{model="m"} 1.0' in metrics
        assert client.runtime.journal is not None
        await client.runtime.journal.flush()
        row = await client.runtime.journal.find(reply.gateway["trace"])
        assert row is not None
        places = [(hop["facts"]["address"], hop.get("left")) for hop in orjson.loads(row.trace)["children"]]
        assert places == [(1, "unavailable"), (2, None)]


async def test_vectors_and_prompts_are_balanced_too(serve: Serve) -> None:
    doubles = [plain("a"), plain("a")]
    for double in doubles:
        double.posts["/v1/embeddings"] = {"data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 2}}
        double.posts["/v1/completions"] = {"choices": [{"index": 0, "text": "x", "finish_reason": "stop"}]}
    async with servers(*doubles) as urls:
        client = await serve(models(free_url(), *urls), default=SINGLE)
        for number in range(4):
            made = await client.call("POST", "/v1/embeddings", {"model": "m", "input": f"text {number}"})
            assert made.json["data"][0]["embedding"] == [0.5]
            said = await client.call("POST", "/v1/completions", {"model": "m", "prompt": f"text {number}"})
            assert said.json["choices"][0]["text"] == "x"
        assert all(len(double.seen) >= 3 for double in doubles)
