"""Numbers, names and quotations stand in what the model was given."""

import time
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.chat import ChatRequest, Verdict
from gateway.checks.grounded import Grounded, claims_in
from gateway.given import FACT, Given
from gateway.trace import CHECK, Trace
from tests.checks.drafts import asking, calls, judged, passes, prefix, whole

NOTE = "The warden of Brill Tower is Otto Frei, who has kept its 1,250 lamps since 1987."


def asked(text: str, *, tool: str | None = NOTE, **body: Any) -> ChatRequest:
    messages: list[dict[str, Any]] = [{"role": "user", "content": text}]
    if tool is not None:
        messages.append({"role": "tool", "tool_call_id": "c", "content": tool})
    return ChatRequest({"messages": messages, **body})


def of(answer: str, request: ChatRequest | None = None, share: float = 0.8) -> Verdict:
    return judged(Grounded(share), whole(answer), request or asked("Who is the warden?"))


@pytest.mark.parametrize(
    "answer",
    [
        "The warden is Otto Frei.",
        "Since 1987 it has been Otto Frei, with 1250 lamps.",
        "1. Otto Frei\n2. Brill Tower",
        "# Warden Facts\nIt is Otto Frei.",
        "The note says “kept its 1,250 lamps”, so it is Frei.",
        "He is a warden.",
        "```\nx = 99\n```\nIt is Otto Frei.",
        "",
    ],
)
def test_grounded(answer: str) -> None:
    assert of(answer).passed


@pytest.mark.parametrize(
    "answer",
    [
        "The warden is Hans Muller of Kell.",
        "It has kept 1,300 lamps since 1987, says Otto.",
        "He has done it since 1978.",
        "The note says “kept its golden bell”.",
    ],
)
def test_ungrounded(answer: str) -> None:
    assert not of(answer).passed


def test_the_score_is_the_share_that_is_found() -> None:
    verdict = of("In 1987 Otto Frei met Hans.", share=0.7)
    assert (verdict.passed, verdict.score) == (True, 0.75)
    verdict = of("In 1987 Otto Frei met Hans.", share=0.8)
    assert (verdict.passed, verdict.score, verdict.reason) == (False, 0.75, "1 of 4 claims stand nowhere")


def test_without_a_source_it_passes_and_says_nothing() -> None:
    for answer in ("It is Hans Muller, since 1950.", ""):
        verdict = of(answer, asking("Who is the warden?", system="You are Bob, a helpful assistant."))
        assert (verdict.passed, verdict.score) == (True, None)


@pytest.mark.parametrize(
    "request_",
    [
        asked("Who?", tool=None, documents=[{"title": "Towers", "text": NOTE}]),
        asked("Who?", tool=None, context=NOTE),
        asking("Who?", system=f"{NOTE} {'It is a fine old place by the sea. ' * 5}"),
        asking(f"{NOTE} {'It is a fine old place by the sea. ' * 5} Who?"),
    ],
    ids=["documents", "context", "system", "user"],
)
def test_the_request_may_bring_the_source(request_: ChatRequest) -> None:
    assert of("It is Otto Frei.", request_).passed
    assert not of("It is Hans Muller.", request_).passed


def test_what_the_user_says_is_known() -> None:
    assert of("You asked of Kell: it is Otto Frei.", asked("Is it Otto, from Kell?")).score == 1.0


async def test_shards_are_a_source_and_what_checks_asked_is_none() -> None:
    trace = Trace("tier", "t")
    trace.span("shards", "core").note(**{FACT: Given("core", ("s",), (NOTE,))})
    trace.span(CHECK, "agreement").span("shards", "core").note(**{FACT: Given("core")})
    check, request = Grounded(), asking("Who is the warden?")
    assert (await check(request, whole("It is Otto Frei."), trace)).score == 1.0
    assert not (await check(request, whole("It is Hans Muller."), trace)).passed


def test_capitals_everywhere_are_no_names() -> None:
    german = "Der Wärter heißt Otto und pflegt die Lampen im Turm seit Jahren mit Liebe und Geduld"
    assert list(claims_in(german)) == []
    assert list(claims_in("In short, it is Otto's tower since 1987.")) == ["1987", "otto"]


def test_every_choice_is_judged() -> None:
    draft = whole("It is Otto Frei.", "It is Hans Muller.")
    verdict = judged(Grounded(), draft, asked("Who?"))
    assert (verdict.passed, verdict.score) == (False, 0.0)
    assert verdict.reason.startswith("choice 1: ")


def test_calls_and_beginnings_pass() -> None:
    assert passes(Grounded(), whole(calls(("look_up", '{"city": "Kell"}'))), asked("Who?"))
    assert passes(Grounded(), prefix("It is Hans Muller"), asked("Who?"))


@pytest.mark.parametrize("share", [0.0, 1.5, "much"])
def test_the_share_is_one(share: Any) -> None:
    with pytest.raises(ValidationError):
        Grounded(share)


@pytest.mark.parametrize("text", ["\n" * 20_000, "# " * 9_000, '"' * 20_000, "A " * 9_000, "1." * 9_000, "-\t" * 9_000])
def test_it_is_quick_on_what_is_made_to_be_slow(text: str) -> None:
    started = time.perf_counter()
    list(claims_in(text))
    assert time.perf_counter() - started < 1
