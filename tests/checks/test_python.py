"""A function of the operator's says whether the answer is good."""

import logging
import threading
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.chat import Verdict
from gateway.checks import Resources
from gateway.checks.python import Python
from gateway.draft import Draft
from gateway.errors import ConfigError
from gateway.trace import Trace
from tests.checks.drafts import asking, calls, passes, prefix, whole
from tests.conftest import Serve, build_from

RELEASE = threading.Event()


def write(folder: Path, code: str, name: str = "mine") -> None:
    (folder / f"{name}.py").write_text(dedent(code))


async def judged(folder: Path, code: str, draft: Draft | None = None, **fields: Any) -> Verdict:
    write(folder, code)
    bound = Python("mine:good", **fields).bound(Resources(folder=folder))
    return await bound(asking("Who?", tag="u1"), draft or whole("Paris"), Trace("tier", "t"))


@pytest.mark.parametrize(
    ("returned", "verdict"),
    [
        ("True", Verdict(True)),
        ("False", Verdict(False)),
        ("0.7", Verdict(True, "", 0.7)),
        ("0.2", Verdict(False, "", 0.2)),
        ("1", Verdict(True, "", 1.0)),
        ("(False, 'too short')", Verdict(False, "too short")),
        ("(0.9, 'good')", Verdict(True, "good", 0.9)),
        ("None", Verdict(False, "it says nothing")),
        ("'yes'", Verdict(False, "it says nothing")),
        ("float('nan')", Verdict(False, "it says nothing")),
    ],
)
async def test_what_it_may_return(tmp_path: Path, returned: str, verdict: Verdict) -> None:
    assert await judged(tmp_path, f"def good(request, text, message): return {returned}") == verdict


async def test_it_is_given_the_request_the_text_and_the_message(tmp_path: Path) -> None:
    code = """
        def good(request, text, message):
            assert request["tag"] == "u1" and text == "Paris" and message["role"] == "assistant"
            request.clear(), message.clear()
            return True
    """
    draft = whole("Paris")
    assert (await judged(tmp_path, code, draft)).passed
    assert draft.choices[0].text == "Paris", "what it does to them stays with it"


async def test_it_may_be_async(tmp_path: Path) -> None:
    code = """
        import asyncio
        async def good(request, text, message):
            await asyncio.sleep(0)
            return text == "Paris"
    """
    assert (await judged(tmp_path, code)).passed
    assert not (await judged(tmp_path, code, whole("Lyon"))).passed


@pytest.mark.parametrize("fault", ["raise ValueError('no')", "raise SystemExit(1)"])
async def test_a_crash_fails_the_draft_and_is_logged(tmp_path: Path, fault: str, caplog: Any) -> None:
    with caplog.at_level(logging.ERROR):
        assert await judged(tmp_path, f"def good(r, t, m): {fault}") == Verdict(False, "it failed")
    assert "mine:good failed" in caplog.text


@pytest.mark.parametrize("prefix_", ["", "async "])
async def test_it_is_not_waited_for_forever(tmp_path: Path, prefix_: str, caplog: Any) -> None:
    RELEASE.clear()
    waits = "import asyncio; await asyncio.sleep(60)" if prefix_ else "RELEASE.wait(60)"
    code = f"from {__name__} import RELEASE\n{prefix_}def good(r, t, m):\n    {waits}\n    return True"
    verdict = await judged(tmp_path, code, timeout_s=0.1)
    RELEASE.set()
    assert verdict == Verdict(False, "no word in time")


async def test_every_choice_is_judged_and_a_beginning_is_not(tmp_path: Path) -> None:
    code = "def good(r, text, m): return (len(text) / 10, text)"
    assert await judged(tmp_path, code, whole("12345678", "1")) == Verdict(False, "1", 0.1)
    assert not (await judged(tmp_path, code, whole(calls(("f", "{}"))))).passed, "it sees calls, and empty drafts"
    assert (await judged(tmp_path, code, Draft.of({"choices": []}))).reason == "no choices"
    assert passes(Python("mine:good"), prefix("Par"))


@pytest.mark.parametrize("function", ["mine", "mine:", "mine.py:good", "mine:good()", "../mine:good", "mine:good; x"])
def test_a_function_is_named_by_module_and_name(function: str) -> None:
    if function == "mine.py:good":
        return  # a module called py in a package: it is looked for, and not found
    with pytest.raises(ValidationError):
        Python(function)


MODELS = "models:\n  m1: {engine: scripted, replies: [{text: a}]}\n  m2: {engine: scripted, replies: [{text: b}]}\n"
POLICY = """
policy: default
routes: [{name: a, answer: {cascade: [{model: m1, checks: [{python: "mine:good"}]}, {model: m2}]}}]
"""


def problem(folder: Path, code: str | None) -> str:
    (folder / "policies").mkdir()
    if code is not None:
        write(folder / "policies", code)
    with pytest.raises(ConfigError) as caught:
        build_from(folder, MODELS, default=POLICY)
    return str(caught.value)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, "there is no mine.py beside the policy, and no module 'mine'"),
        ("def bad(r, t, m): return True", "'mine' has no function 'good'"),
        ("good = 3", "'mine' has no function 'good'"),
        ("def good(text): return True", "must take (request_body, draft_text, draft_message)"),
        ("def good(", "cannot be imported: SyntaxError"),
        ("raise SystemExit", "cannot be imported: SystemExit"),
        ("import nonesuch_module", "needs the module 'nonesuch_module', which is not installed"),
    ],
)
def test_what_is_wrong_with_it_is_found_at_start(tmp_path: Path, code: str | None, message: str) -> None:
    said = problem(tmp_path, code)
    assert message in said
    assert "default.yaml:3: routes[0].answer.cascade[0].checks[0].python" in said


async def test_a_policy_brings_its_function_and_a_reload_its_change(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "0" / "policies"
    folder.mkdir(parents=True)
    code = """
        from dataclasses import dataclass
        @dataclass
        class Wanted:
            text: str = "b"
        def good(request, text, message): return text == Wanted().text
    """
    write(folder, code)
    client = await serve(MODELS, default=POLICY)
    assert (await client.chat()).gateway["path"] == "m1!python,m2"
    write(folder, code.replace('"b"', '"a"'))
    again, _ = build_from(tmp_path / "0", MODELS, default=POLICY)
    client.live.swap(again)
    assert (await client.chat()).gateway["path"] == "m1"


def test_an_installed_module_will_do() -> None:
    bound = Python("operator:contains", timeout_s=1.0)
    with pytest.raises(ValueError, match="must take"):
        bound.bound(Resources())
