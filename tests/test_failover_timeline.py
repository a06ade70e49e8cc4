"""What becomes of requests, second by second, while upstreams fail: the whole gateway, on a clock that no test has to
wait for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.backends import retries
from gateway.backends.script import Script, ScriptSpec
from gateway.backends.scripted import ScriptedClient
from gateway.chat import ChatRequest
from gateway.chunks import Chunk
from gateway.errors import GatewayError
from gateway.gateway import Gateway
from gateway.learning.virtual_clock import VirtualClock
from gateway.trace import RequestTrace
from gateway.transport import NEVER, ConnectFailed, HttpReply
from tests.asgi import chat_body
from tests.conftest import build_from

POLICY = "policy: default\nroutes: [{name: all, answer: {model: m}}]\n"
OK: dict[str, Any] = {"text": "good"}
Reply = dict[str, Any]
REFUSED: Reply = {}


def status(code: int, **headers: str) -> Reply:
    return {"error": {"status": code, "headers": {name.replace("_", "-"): value for name, value in headers.items()}}}


@dataclass
class World:
    """Upstreams by host, or by host and key: what each says next (the last for good), and when it was asked."""

    says: dict[str, list[Reply]]
    asked: list[tuple[float, str]] = field(default_factory=list)

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, connect_s: float, due: float = NEVER
    ) -> HttpReply:
        host = str(urlsplit(url).hostname)
        keyed = f"{host} {headers.get('authorization', '').removeprefix('Bearer ')}"
        name = keyed if keyed in self.says else host
        self.asked.append((round(time.monotonic(), 3), name))
        replies = self.says[name]
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if reply == REFUSED:
            raise ConnectFailed("refused")
        client = ScriptedClient(Script(ScriptSpec.model_validate({"replies": [reply]})))
        return await client.post(url, headers, body, connect_s=connect_s, due=due)

    async def get(self, url: str, headers: Mapping[str, str], *, connect_s: float, due: float = NEVER) -> HttpReply:
        raise ConnectFailed("chats only")

    async def close(self) -> None:
        pass

    def names(self, since_s: float = 0.0) -> list[str]:
        return [name for at_s, name in self.asked if at_s >= since_s]


@dataclass
class Heard:
    """What a client heard, and when it was over."""

    path: str
    text: str
    error: GatewayError | None
    trace: RequestTrace
    at_s: float

    @property
    def status(self) -> int:
        return self.error.status if self.error is not None else 200


class Bench:
    def __init__(self, gateway: Gateway, world: World) -> None:
        self.gateway, self.world = gateway, world

    async def ask(self, text: str = "hi", *, stream: bool = False, deadline_s: float | None = None) -> Heard:
        deadline = None if deadline_s is None else time.monotonic() + deadline_s
        request = ChatRequest(chat_body(text, model="m", stream=stream), deadline=deadline)
        trace, said, error, whole = RequestTrace("m", stream=stream), "", None, ""

        async def emit(chunk: Chunk) -> None:
            nonlocal said
            said += "".join(choice["delta"].get("content") or "" for choice in chunk.choices)

        try:
            whole = next(iter((await self.gateway.answer(request, emit, trace)).texts))
        except GatewayError as exc:
            error = exc
        return Heard(trace.path, said if stream else whole, error, trace, round(time.monotonic(), 3))

    async def until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - time.monotonic()))


Play = Callable[[Bench], Coroutine[Any, Any, None]]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, list[Reply]], Play], None]:
    """`play(entry, says, story)`: the model `m` of that entry, with these upstreams, from second 0."""
    monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.5)  # waiting costs nothing here

    def run(entry: str, says: dict[str, list[Reply]], story: Play) -> None:
        async def main() -> None:
            loop, world = asyncio.get_running_loop(), World(says)
            monkeypatch.setattr(time, "monotonic", loop.time)
            models = f"models:\n  m: {{engine: openai, model: up, {entry}}}\n"
            models += "  n: {engine: scripted, replies: [{text: n}]}\n"
            gateway, runtime = build_from(tmp_path, models, default=POLICY)
            monkeypatch.setattr(runtime.client, "post", world.post)
            for balance in runtime.metrics.addressed.values():
                monkeypatch.setattr(balance, "_now", loop.time)
            await story(Bench(gateway, world))

        with asyncio.Runner(loop_factory=VirtualClock) as runner:
            runner.run(main())

    return run


ONE = "base_url: 'http://a/v1'"
TWO = "base_url: ['http://a/v1', 'http://b/v1']"
KEYS = "base_url: 'http://a/v1', api_key: [key-one-0123456789, key-two-0123456789]"
Player = Callable[[str, dict[str, list[Reply]], Play], None]


# --- retries


@pytest.mark.parametrize("stream", [False, True])
def test_what_passes_is_tried_again_after_growing_pauses(play: Player, stream: bool) -> None:
    async def story(bench: Bench) -> None:
        heard = await bench.ask(stream=stream)
        assert (heard.text, heard.path) == ("good", "m!http_500,m!http_503,m")
        first, second, third = (at_s for at_s, _ in bench.world.asked)
        assert 0 <= second - first <= 0.5 and 0 <= third - second <= 1.0
        spends = [hop.spend for hop in heard.trace.models()]
        assert all(spend is not None for spend in spends), "each attempt is counted"

    play(ONE, {"a": [status(500), status(503), OK]}, story)


def test_it_gives_up_after_so_many(play: Player) -> None:
    async def story(bench: Bench) -> None:
        heard = await bench.ask()
        assert (heard.status, heard.path) == (500, "m!http_500,m!http_500,m!http_500")

    play(ONE, {"a": [status(500)]}, story)


@pytest.mark.parametrize(
    "fault",
    [REFUSED, {"text": "a b", "cut_after": 0}, {"text": "a b c", "malformed_after": 0}, status(429), status(502)],
    ids=["refused", "cut", "garbage", "429", "502"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_another_try_can_help(play: Player, fault: Reply, stream: bool) -> None:
    async def story(bench: Bench) -> None:
        heard = await bench.ask(stream=stream)
        assert heard.text == "good" and len(bench.world.asked) == 2 and heard.path.endswith(",m")

    play(ONE, {"a": [fault, OK]}, story)


FILTERED: Reply = {"error": {"status": 400, "code": "content_filter"}}
CONTEXT: Reply = {"error": {"status": 400, "code": "context_length_exceeded"}}


@pytest.mark.parametrize(
    ("fault", "status_"),
    [
        (status(400), 400),
        (status(401), 502),
        (status(402), 402),
        (status(404), 404),
        (status(501), 501),
        (status(505), 505),
        (FILTERED, 400),
        (CONTEXT, 400),
        ({"error": {"status": 429, "code": "insufficient_quota"}}, 429),
        (status(500, x_should_retry="false"), 500),
        ({"error": {"status": 504, "code": "upstream_timeout"}}, 504),
        ({"silent": True}, 504),
    ],
    ids=lambda value: None if isinstance(value, int) else next(iter(str(value).split("}")))[:40],
)
def test_what_another_try_cannot_help(play: Player, fault: Reply, status_: int) -> None:
    async def story(bench: Bench) -> None:
        heard = await bench.ask()
        assert heard.status == status_ and len(bench.world.asked) == 1

    play(ONE, {"a": [fault, OK]}, story)


def test_after_a_word_there_is_no_other_try(play: Player) -> None:
    async def story(bench: Bench) -> None:
        heard = await bench.ask(stream=True)
        assert (heard.status, heard.text) == (502, "one two") and len(bench.world.asked) == 1

    play(ONE, {"a": [{"text": "one two three", "cut_after": 3}, OK]}, story)


@pytest.mark.parametrize("said", [{"retry_after": "1"}, {"retry_after_ms": "1000"}])
def test_an_upstream_that_asks_for_a_pause_gets_it(play: Player, said: dict[str, str]) -> None:
    async def story(bench: Bench) -> None:
        heard = await bench.ask()
        assert heard.text == "good" and 1.0 <= bench.world.asked[1][0] <= 1.1

    play(ONE, {"a": [status(429, **said), OK]}, story)


@pytest.mark.parametrize(
    ("entry", "asked_s", "deadline_s"),
    [
        (ONE, 2, None),
        (ONE, 1, 0.5),
        (f"{ONE}, timeouts: {{total_s: 0.5}}", 1, None),
        (f"{ONE}, fallbacks: [n]", 1, None),
    ],
    ids=["too long", "past the deadline", "past the model's time", "others can be asked"],
)
def test_a_pause_that_is_too_long_is_not_begun(
    play: Player, entry: str, asked_s: int, deadline_s: float | None
) -> None:
    async def story(bench: Bench) -> None:
        heard = await bench.ask(deadline_s=deadline_s)
        assert heard.at_s == 0 and len(bench.world.asked) == 1
        if "fallbacks" in entry:
            assert (heard.text, heard.path) == ("n", "m!http_429,n")
        else:
            assert heard.error is not None and heard.error.headers["retry-after"] == str(asked_s)

    play(entry, {"a": [status(429, retry_after=str(asked_s)), OK]}, story)


# --- addresses


def test_an_address_is_set_aside_and_tried_by_one_request_at_a_time(play: Player) -> None:
    async def story(bench: Bench) -> None:
        world = bench.world
        assert (await bench.ask("1")).path == "m!unavailable,m" and world.names() == ["a", "b"]
        await bench.until(0.9)
        assert [(await bench.ask(f"2{n}")).path for n in range(4)] == ["m"] * 4 and set(world.names(0.5)) == {"b"}
        await bench.until(1.1)
        heard = await asyncio.gather(*(bench.ask(f"3{n}") for n in range(6)))
        assert world.names(1.0).count("a") == 1, "half open: one of them tries it, in vain"
        assert {one.text for one in heard} == {"good"}
        await bench.until(2.9)
        assert (await bench.ask("4")).path == "m" and world.names(2.5) == ["b"], "the second pause is twice as long"
        await bench.until(3.2)
        assert [(await bench.ask(f"5{n}")).path for n in range(6)] == ["m"] * 6
        assert "a" in world.names(3.0), "it is back"

    play(TWO, {"a": [REFUSED, REFUSED, OK], "b": [OK]}, story)


def test_an_error_that_may_be_the_requests_own_counts_three_times(play: Player) -> None:
    async def story(bench: Bench) -> None:
        for number in range(30):
            await bench.ask(str(number))
        assert bench.world.names().count("a") == 3

    play(f"{TWO}, retries: 0", {"a": [status(500)], "b": [OK]}, story)


def test_a_retry_goes_elsewhere_at_once(play: Player) -> None:
    async def story(bench: Bench) -> None:
        heard = await bench.ask()
        assert (heard.path, heard.at_s) == ("m!http_500,m", 0.0) and bench.world.names() == ["a", "b"]

    play(TWO, {"a": [status(500)], "b": [OK]}, story)


def test_where_all_are_set_aside_one_request_a_second_finds_out(play: Player) -> None:
    async def story(bench: Bench) -> None:
        world = bench.world
        assert (await bench.ask()).status == 503 and len(world.asked) == 2
        await bench.until(0.1)
        flood = await asyncio.gather(*(bench.ask(str(number)) for number in range(50)))
        assert [one.status for one in flood] == [503] * 50 and len(world.asked) == 3, "one of fifty was sent"
        assert all(one.error is not None and "retry-after" in one.error.headers for one in flood)
        await bench.until(1.15)
        world.says["a"] = world.says["b"] = [OK]
        assert (await bench.ask()).status == 200

    play(f"{TWO}, retries: 0", {"a": [REFUSED], "b": [REFUSED]}, story)


def test_retries_wait_for_an_address_that_is_set_aside(play: Player) -> None:
    async def story(bench: Bench) -> None:
        heard = await bench.ask()
        assert heard.text == "good" and 1.0 <= heard.at_s <= 1.2

    play(TWO, {"a": [REFUSED, OK], "b": [REFUSED, OK]}, story)


def test_the_only_address_is_never_set_aside(play: Player) -> None:
    async def story(bench: Bench) -> None:
        for _ in range(20):
            assert (await bench.ask()).status == 503
        assert len(bench.world.asked) == 20

    play(f"{ONE}, retries: 0", {"a": [REFUSED]}, story)


# --- keys

K1, K2 = "a key-one-0123456789", "a key-two-0123456789"


def test_a_key_that_is_limited_rests_and_the_next_is_used_at_once(play: Player) -> None:
    async def story(bench: Bench) -> None:
        heard = await bench.ask("1")
        assert (heard.path, heard.at_s) == ("m!http_429,m", 0.0) and bench.world.names() == [K1, K2]
        await bench.until(29)
        for number in range(4):
            assert (await bench.ask(f"2{number}")).path == "m"
        assert bench.world.names(1) == [K2] * 4
        await bench.until(31)
        for number in range(4):
            await bench.ask(f"3{number}")
        assert K1 in bench.world.names(30)

    play(KEYS, {K1: [status(429, retry_after="30"), OK], K2: [OK]}, story)


@pytest.mark.parametrize("code", [401, 402, 403])
def test_a_key_that_is_refused_is_tried_again_after_long_pauses(
    play: Player, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    async def story(bench: Bench) -> None:
        for minute in range(40):
            await bench.until(minute * 60)
            assert (await bench.ask(f"{minute}")).text == "good"
        assert [at_s // 60 for at_s, name in bench.world.asked if name == K1] == [0, 10, 30], "10 minutes, then 20"
        warned = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warned) == 1 and "…6789" in warned[0] and "key-one" not in caplog.text

    play(KEYS, {K1: [status(code)], K2: [OK]}, story)


def test_moderation_is_not_the_keys_fault(play: Player) -> None:
    flagged = '{"error": {"code": 403, "message": "no", "metadata": {"reasons": ["violence"], "flagged_input": "x"}}}'

    async def story(bench: Bench) -> None:
        heard = await bench.ask()
        assert (heard.status, heard.path) == (403, "m!content_filter") and bench.world.names() == [K1]

    play(KEYS, {K1: [{"error": {"status": 403, "body": flagged}}], K2: [OK]}, story)


def test_all_keys_refused_is_the_gateways_fault_and_found_out_once_a_second(play: Player) -> None:
    async def story(bench: Bench) -> None:
        for wanted in (2, 3, 3):
            heard = await bench.ask()
            assert heard.error is not None and heard.status == 502 and len(bench.world.asked) == wanted
            assert "the upstream refused the gateway's credentials" in heard.error.message
        bench.world.says[K1] = bench.world.says[K2] = [OK]
        await bench.until(1.1)
        assert (await bench.ask()).status == 200

    play(KEYS, {K1: [status(401)], K2: [status(403)]}, story)


def test_another_key_is_no_remedy_for_what_is_wrong_with_the_address(play: Player) -> None:
    async def story(bench: Bench) -> None:
        heard = await bench.ask()
        assert heard.text == "good" and heard.at_s > 0, "as a retry, after a pause"
        assert all([(await bench.ask(str(number))).text == "good" for number in range(4)]), "and it is not set aside"

    play(KEYS, {K1: [REFUSED, OK], K2: [REFUSED, OK]}, story)


def test_keys_of_an_address_share_what_is_wrong_with_it(play: Player) -> None:
    async def story(bench: Bench) -> None:
        assert (await bench.ask("1")).path == "m!unavailable,m" and bench.world.names() == [K1, "b"]
        for number in range(3):
            await bench.ask(f"2{number}")
        assert bench.world.names()[2:] == ["b"] * 3

    both = "base_url: ['http://a/v1', {url: 'http://b/v1', key: k}], api_key: [key-one-0123456789, key-two-0123456789]"
    play(both, {K1: [REFUSED], K2: [REFUSED], "b": [OK]}, story)


# --- hedging

SLOW: Reply = {"text": "slow", "first_token_ms": 5000}
QUICK: Reply = {"text": "quick", "first_token_ms": 100}


@pytest.mark.parametrize("stream", [False, True])
def test_a_late_first_word_gets_company_and_who_speaks_first_answers(play: Player, stream: bool) -> None:
    async def story(bench: Bench) -> None:
        for number in range(30):
            assert (await bench.ask(str(number), stream=stream)).text == "quick"
        began_s = time.monotonic()
        bench.world.says["a"] = [SLOW]
        heard = [await bench.ask(f"x{number}", stream=stream) for number in range(2)]
        late = next(one for one in heard if "raced" in one.path)
        assert (late.text, late.path) == ("quick", "m!raced,m")
        assert late.at_s - began_s < 0.6, "0.3 s until it is late, 0.1 s for the other, and 0.1 s for another request"
        lost, won = late.trace.models()
        assert lost.spend is not None and lost.spend.usage.estimated and won.spend is not None
        assert {one.text for one in heard} == {"quick"}

    now_and_then = {**QUICK, "first_token_ms": 300}
    replies = {"a": [now_and_then, now_and_then, QUICK], "b": [QUICK]}
    play(f"{TWO}, balance: least_busy, hedge: p95", replies, story)


def test_before_enough_is_known_it_waits_ten_seconds(play: Player) -> None:
    async def story(bench: Bench) -> None:
        heard = await bench.ask()
        assert heard.text == "quick" and heard.at_s == 10.1

    play(f"{TWO}, hedge: p95", {"a": [{**SLOW, "first_token_ms": 30_000}], "b": [QUICK]}, story)


def test_a_slow_upstream_is_not_asked_twice_as_much(play: Player) -> None:
    async def story(bench: Bench) -> None:
        for number in range(100):
            assert (await bench.ask(str(number))).text == "slow"
        assert 108 <= len(bench.world.asked) <= 112

    play(f"{TWO}, hedge: 0.2", {"a": [SLOW], "b": [SLOW]}, story)


def test_the_second_one_failing_does_not_hurt_the_first(play: Player) -> None:
    async def story(bench: Bench) -> None:
        heard = await bench.ask()
        assert (heard.text, heard.path, heard.at_s) == ("slow", "m,m!http_500", 5.0)

    play(f"{TWO}, hedge: 0.2", {"a": [SLOW], "b": [status(500)]}, story)


def test_both_failing_is_the_first_ones_error(play: Player) -> None:
    async def story(bench: Bench) -> None:
        heard = await bench.ask()
        assert heard.status == 418 and len(bench.world.asked) == 2

    late = {**status(418), "first_token_ms": 1000}
    play(f"{TWO}, hedge: 0.2", {"a": [late], "b": [status(400)]}, story)


def test_a_fallback_is_asked_beside_a_late_model(play: Player) -> None:
    async def story(bench: Bench) -> None:
        heard = await bench.ask(stream=True)
        assert (heard.text, heard.path, heard.at_s) == ("n", "m!raced,n", 0.2)
        assert heard.trace.answered_by == "n"

    play(f"{ONE}, hedge: 0.2, fallbacks: [n]", {"a": [SLOW]}, story)


def test_a_client_that_leaves_takes_both_along(play: Player) -> None:
    async def story(bench: Bench) -> None:
        asking = asyncio.create_task(bench.ask())
        await bench.until(1.0)
        assert len(bench.world.asked) == 2
        asking.cancel()
        await asyncio.wait({asking})
        assert asking.cancelled() and len(asyncio.all_tasks()) == 1

    play(f"{TWO}, hedge: 0.2", {"a": [SLOW], "b": [SLOW]}, story)
