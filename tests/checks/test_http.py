"""A service says whether the answer is good. Over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from gateway.chat import Verdict
from gateway.checks import Resources
from gateway.checks.http import Http
from gateway.draft import Draft
from gateway.trace import Trace
from gateway.transport.client import PooledClient
from tests.checks.drafts import asking, calls, passes, prefix, whole
from tests.conftest import Serve

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def service(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/check", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/check"
    finally:
        await runner.cleanup()


async def judged(url: str, draft: Draft, trace: Trace | None = None, **fields: Any) -> Verdict:
    client = PooledClient()
    try:
        bound = Http(url=url, **fields).bound(Resources(client=client))
        return await bound(asking("Who?", tag="u1"), draft, trace or Trace("tier", "t"))
    finally:
        await client.close()


def saying(reply: Any, status: int = 200, seen: list[Any] | None = None) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        if seen is not None:
            seen.append((request.headers.copy(), await request.json()))
        return web.json_response(reply, status=status)

    return handle


async def test_the_service_sees_request_and_draft_and_decides() -> None:
    seen: list[Any] = []
    async with service(saying({"passed": True, "score": 0.9, "reason": "fine"}, seen=seen)) as url:
        verdict = await judged(url, whole("Paris"), headers={"Authorization": "Bearer s3cret"})
    assert verdict == Verdict(True, "fine", 0.9)
    headers, body = seen[0]
    assert headers["authorization"] == "Bearer s3cret"
    assert body["request"]["messages"] == [{"role": "user", "content": "Who?"}] and body["request"]["tag"] == "u1"
    assert body["draft"]["text"] == "Paris" and body["draft"]["message"]["content"] == "Paris"
    assert (body["draft"]["index"], body["draft"]["finish_reason"]) == (0, "stop")


async def test_it_may_say_no() -> None:
    async with service(saying({"passed": False, "reason": "x" * 999})) as url:
        verdict = await judged(url, whole("Paris"))
    assert (verdict.passed, verdict.reason, verdict.score) == (False, "x" * 200, None)


@pytest.mark.parametrize(("score", "passed"), [(0.7, True), (0.6, False)])
async def test_a_score_has_to_be_reached(score: float, passed: bool) -> None:
    async with service(saying({"passed": True, "score": score})) as url:
        assert await judged(url, whole("Paris"), at_least=0.7) == Verdict(passed, "", score)


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        ({}, 200),
        ([], 200),
        ({"passed": "yes"}, 200),
        ({"passed": True}, 500),
        ({"passed": True}, 302),
        ("x" * 70_000, 200),
    ],
)
@pytest.mark.parametrize("on_error", ["fail", "pass"])
async def test_where_it_has_no_word_the_policy_decides(reply: Any, status: int, on_error: Any) -> None:
    trace = Trace("tier", "t")
    async with service(saying(reply, status)) as url:
        verdict = await judged(url, whole("Paris"), trace, on_error=on_error)
    assert (verdict.passed, verdict.score) == (on_error == "pass", None)
    assert verdict.reason and "127.0.0.1" not in verdict.reason
    assert trace.children[0].facts == {"unanswered": verdict.reason}


async def test_it_is_not_waited_for_forever() -> None:
    never = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        await never.wait()
        return web.json_response({"passed": True})

    async with service(hang) as url:
        assert (await judged(url, whole("Paris"), timeout_s=0.1)).reason == "no word in time"
        never.set()


async def test_nobody_there() -> None:
    async with service(saying({})) as url:
        pass
    assert (await judged(url, whole("Paris"))).reason == "it cannot be reached"


async def test_every_choice_is_asked_about_and_the_worst_decides() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        draft = (await request.json())["draft"]
        return web.json_response({"passed": draft["text"] == "Paris", "score": draft["index"] + 1.0})

    async with service(handle) as url:
        assert await judged(url, whole("Lyon", "Paris")) == Verdict(False, "", 1.0)
        assert not (await judged(url, whole(calls(("f", "{}"))))).passed, "what it says of calls is its own affair"
        assert (await judged(url, Draft.of({"choices": []}))).reason == "no choices"


def test_a_beginning_is_not_asked_about() -> None:
    assert passes(Http(url="http://127.0.0.1:1/"), prefix("Par"))


@pytest.mark.parametrize(
    "fields",
    [{"url": "file:///etc/passwd"}, {"headers": {"a": "b\r\nc: d"}}, {"timeout_s": 0.0}, {"on_error": "maybe"}],
)
def test_parameters_have_bounds(fields: Any) -> None:
    with pytest.raises(ValidationError):
        Http(**{"url": "http://127.0.0.1/", **fields})


async def test_a_secret_comes_from_the_environment(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHECK_TOKEN", "t0ken")
    seen: list[Any] = []
    async with service(saying({"passed": False}, seen=seen)) as url:
        check = f"{{http: {{url: '{url}', headers: {{x-token: '${{CHECK_TOKEN}}'}}}}}}"
        models = (
            "models:\n  m1: {engine: scripted, replies: [{text: a}]}\n  m2: {engine: scripted, replies: [{text: b}]}\n"
        )
        tiers = f"[{{model: m1, checks: [{check}]}}, {{model: m2}}]"
        client = await serve(models, default=f"policy: default\nroutes: [{{name: a, answer: {{cascade: {tiers}}}}}]\n")
        reply = await client.chat()
    assert (reply.text, reply.gateway["path"]) == ("b", "m1!http,m2")
    assert seen[0][0]["x-token"] == "t0ken"
    assert b"t0ken" not in reply.body
