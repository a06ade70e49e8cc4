"""What another gateway is told, what it says that it has spent, and what its errors mean."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from gateway.backends import onward
from gateway.backends.refusals import error_of
from gateway.chat import ChatRequest, CostCap
from gateway.errors import STOPPING, AddressFault, CostCapReached, LoopDetected
from gateway.trace import Spend, Trace, Usage


def spent(usd: float) -> Trace:
    trace = Trace("model", "m")
    trace.spend = Spend("m", Usage(1, 1), usd, 0.1)
    return trace


def asking(*messages: tuple[str, Any], **more: Any) -> ChatRequest:
    return ChatRequest({"messages": [{"role": role, "content": said} for role, said in messages]}, **more)


TALK = (("system", "s"), ("user", "u"))


def test_a_conversation_has_one_name_at_each_of_its_turns() -> None:
    first = asking(*TALK).conversation
    assert len(first) == 32 and first == asking(*TALK, ("assistant", "a"), ("user", "more")).conversation
    assert first == asking(("developer", "s"), ("user", "u")).conversation
    others = [asking(("user", "u")), asking(("system", "s"), ("user", "v")), asking(*TALK, key="k")]
    assert len({first, *(other.conversation for other in others)}) == 4
    assert asking().conversation == asking().conversation


@pytest.mark.parametrize(
    ("given", "is_taken"), [("mine", True), ("x" * 129, False), ("a\nb", False), ("ä", False), ("", False)]
)
def test_a_client_may_name_it(given: str, is_taken: bool) -> None:
    named = asking(*TALK, headers={"x-gateway-session": given}).conversation
    assert named == (given if is_taken else asking(*TALK).conversation)


def test_prompts_and_images_have_conversations_too() -> None:
    def prompt(text: Any) -> str:
        return ChatRequest({"prompt": text}).conversation

    head = "x" * 300
    assert prompt(head) == prompt(head + " and on") != prompt("y" + head)
    assert prompt([1, 2]) != prompt([1, 3])
    image = [{"type": "image_url", "image_url": {"url": "data:a"}}]
    other = [{"type": "image_url", "image_url": {"url": "data:b"}}]
    assert asking(("user", image)).conversation != asking(("user", other)).conversation


@pytest.mark.parametrize(("left_s", "least", "most"), [(10.0, 9.65, 9.75), (0.5, 0.44, 0.45), (0.0, 0.001, 0.001)])
def test_a_little_time_is_kept_for_the_way_back(left_s: float, least: float, most: float) -> None:
    headers = onward.headers_of(asking(*TALK, deadline=time.monotonic() + left_s))
    assert least <= float(headers["x-gateway-deadline-s"]) <= most


def test_the_smallest_limit_is_told() -> None:
    caps = (CostCap(spent(0.25), 1.0), CostCap(spent(0.25), 0.5), CostCap(spent(0.0), 0.7))
    assert onward.headers_of(asking(*TALK, caps=caps))["x-gateway-max-cost-usd"] == "0.2500000000"
    assert set(onward.headers_of(asking(*TALK))) == {"x-gateway-session"}


@pytest.mark.parametrize(
    ("used", "limit", "may"), [(0.0, 1.0, True), (1.0, 1.0, False), (2.0, 1.0, False), (0.0, 0.0, True)]
)
def test_nobody_is_asked_when_nothing_is_left(used: float, limit: float, may: bool) -> None:
    request = asking(*TALK, caps=(CostCap(spent(used), limit),))
    if may:
        onward.admit_cost(request, "m")
    else:
        with pytest.raises(CostCapReached, match="nothing is left"):
            onward.admit_cost(request, "m")


@pytest.mark.parametrize(
    ("said", "header", "cost"),
    [
        ({"cost_usd": 0.5}, "1", 0.5),
        ({"cost_usd": None}, "1", None),
        ({"cost_usd": 0}, None, 0.0),
        ({"cost_usd": -1}, None, None),
        ({"cost_usd": [1]}, None, None),
        (None, "0.25", 0.25),
        (None, "much", None),
        (None, "inf", None),
        (None, None, None),
        ("odd", "0.1", 0.1),
    ],
)
def test_what_it_cost_there(said: Any, header: str | None, cost: float | None) -> None:
    assert onward.cost_told(said, {"x-gateway-cost-usd": header} if header else {}) == cost


@pytest.mark.parametrize(
    ("said", "joules"),
    [
        ({"energy_j": 2.5}, 2.5),
        ({"energy_j": None}, None),
        ({"energy_j": -1}, None),
        ({"energy_j": "2"}, None),
        ({"energy_j": True}, None),
        ("odd", None),
    ],
)
def test_what_it_drew_there(said: Any, joules: float | None) -> None:
    assert onward.joules_told(said) == joules


def refusal(status: int, **error: Any) -> Any:
    return error_of("m", status, {}, orjson.dumps({"error": {"message": "no", **error}}), ("http://10.0.0.1/v1",))


def test_a_loop_is_told_in_the_words_of_who_noticed() -> None:
    error = refusal(508, message="this request has passed 8 gateways", code="loop_detected")
    assert isinstance(error, LoopDetected) and error.message == "this request has passed 8 gateways"
    hidden = refusal(508, message="of http://10.0.0.1/v1")
    assert "10.0.0.1" not in hidden.message


@pytest.mark.parametrize(
    ("status", "error", "fault"),
    [
        (429, {}, AddressFault.BUSY),
        (502, {}, AddressFault.BROKEN),
        (502, {"code": "checks_failed"}, None),
        (503, {}, AddressFault.UNAVAILABLE),
        (503, {"message": STOPPING}, AddressFault.STOPPING),
        (503, {"message": f"model 'x': {STOPPING}"}, AddressFault.UNAVAILABLE),
        (504, {}, AddressFault.BROKEN),
        (504, {"code": "upstream_timeout"}, None),
        (400, {}, None),
        (500, {}, AddressFault.FAILED),
        (402, {}, AddressFault.KEY),
        (402, {"code": "max_cost_exceeded"}, None),
        (429, {"code": "insufficient_quota"}, AddressFault.KEY),
        (401, {}, AddressFault.KEY),
    ],
)
def test_what_an_error_tells_of_the_address(status: int, error: dict[str, str], fault: AddressFault | None) -> None:
    assert refusal(status, **error).fault is fault
