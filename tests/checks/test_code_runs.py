"""The code in an answer parses, and passes the tests that there are for it."""

import sys
import time
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.chat import ChatRequest, Verdict
from gateway.checks import Resources
from gateway.checks.code_runs import CodeRuns, asserts_for, blocks_in, examples_for, first_fault
from gateway.draft import Draft
from gateway.trace import Trace
from tests.checks.drafts import asking, calls, prefix, whole
from tests.conftest import Serve

linux = pytest.mark.skipif(sys.platform != "linux", reason="code is only run where it can be shut in")
DOUBLE = "Here it is:\n```python\ndef double(x):\n    return {}\n```\nHave fun."
RIGHT, WRONG = DOUBLE.format("2 * x"), DOUBLE.format("x + 1")


async def judged(
    text: str | Draft | dict[str, Any], request: ChatRequest | None = None, trace: Trace | None = None, **fields: Any
) -> Verdict:
    draft = text if isinstance(text, Draft) else whole(text)
    return await CodeRuns(**fields).bound(Resources())(request or asking("?"), draft, trace or Trace("tier", "t"))


@pytest.mark.parametrize(
    "text",
    [
        RIGHT,
        "No code at all: if x then y.",
        "",
        "```\n$ pip install x\n```",
        "```js\nlet x = ;\n```",
        "def f(x):\n    return x\n",
        "```python\n>>> 1 + 1\n2\n```",
        '```py\npattern = "\\d"\n```',
        "~~~python\nx = 1\n~~~",
        "````python\ntext = '''\n```\n'''\n````",
    ],
)
async def test_what_parses_passes(text: str) -> None:
    assert (await judged(text)).passed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("```python\ndef f(:\n```", "does not parse: invalid syntax, line 1"),
        ("```python\nx = 1\n```\n```python\nif x\n```", "block 2 does not parse: expected ':', line 1"),
        ("```\nimport os\nprint(\n```", "does not parse: '(' was never closed, line 2"),
        (
            "def f(x):\nreturn x",
            "does not parse: expected an indented block after function definition on line 1, line 2",
        ),
        ("```python\ndef f(x):\n    return x\n", "does not parse: '(' was never closed, line 4"),
        ("```python\nx = '\0'\n```", "does not parse: ValueError"),
        ("```python\n" + "x" * 100_001, "too long to be looked at"),
    ],
)
async def test_what_does_not_parse_fails(text: str, reason: str) -> None:
    verdict = await judged(text)
    assert not verdict.passed
    assert verdict.reason.startswith(reason.partition(":")[0])
    assert sys.version_info[:2] != (3, 11) or verdict.reason == reason or "ValueError" in reason


@linux
async def test_the_requests_own_tests_are_run() -> None:
    asked = asking("Write double(x).\n\nassert double(2) == 4\nassert double(\n  0) == 0\nassert other() == 1")
    trace = Trace("tier", "t")
    assert (await judged(RIGHT, asked, trace)).passed
    assert await judged(WRONG, asked) == Verdict(False, "test 1: AssertionError")
    facts = trace.children[0].facts
    assert facts is not None and facts["was_run"] and {"landlock", "seccomp"} <= set(facts["layers"])


@linux
async def test_the_requests_examples_are_run() -> None:
    asked = asking("Write double:\n\n    >>> double(2)\n    4\n\nand nothing else")
    assert (await judged(RIGHT, asked)).passed
    assert (await judged(WRONG, asked)).reason == "example 1 gives something else"


@linux
async def test_the_policys_tests_are_run() -> None:
    tests = "for n in range(5):\n    assert double(n) == 2 * n, n\n"
    assert (await judged(RIGHT, tests=tests)).passed
    assert (await judged(WRONG, tests=tests)).reason == "test 1: AssertionError: 0"
    assert (await judged("No code here.", tests=tests)).passed


@linux
async def test_a_loop_without_end_and_a_bomb_fail() -> None:
    loop, bomb = DOUBLE.format("double(x)"), DOUBLE.format("bytearray(10**10)")
    assert "RecursionError" in (await judged(loop, tests="double(1)")).reason
    assert "MemoryError" in (await judged(bomb, tests="double(1)")).reason
    endless = "```python\ndef double(x):\n    while True: pass\n```"
    assert (await judged(endless, tests="double(1)", timeout_s=0.3)).reason == "no result within 0.3 s"


async def test_what_it_imports_from_elsewhere_is_not_run() -> None:
    text = "```python\nimport numpy as np\ndef double(x):\n    return np.nothing\n```"
    trace = Trace("tier", "t")
    assert (await judged(text, trace=trace, tests="assert double(1) == 2")).passed
    assert trace.children == []


@linux
async def test_every_choice_is_judged() -> None:
    verdict = await judged(whole(RIGHT, WRONG), tests="assert double(4) == 8")
    assert verdict == Verdict(False, "choice 1: test 1: AssertionError")
    assert not (await judged(Draft.of({"choices": []}))).passed


async def test_calls_and_beginnings_pass() -> None:
    assert (await judged(calls(("run", '{"code": "def f(:"}')))).passed
    assert (await judged(prefix("```python\ndef f(:\n```"))).passed


def test_only_tests_of_what_is_there_are_taken() -> None:
    asked = "assert f(1) == 2\nassert g(1) == 2\nassert f(\n    3\n) == 4\nassert (unfinished"
    assert asserts_for(asked, {"f"}) == ["assert f(1) == 2", "assert f(\n    3\n) == 4"]
    assert examples_for(">>> f(1)\n2\n\n>>> g(1)\n2\n", {"f"}) == [">>> f(1)\n2\n"]
    assert asserts_for("He said: assert yourself", {"f"}) == []


@pytest.mark.parametrize("fields", [{"tests": "def ("}, {"language": "rust"}, {"timeout_s": 0.0}, {"memory_mb": 1}])
def test_parameters_have_bounds(fields: Any) -> None:
    with pytest.raises(ValidationError):
        CodeRuns(**fields)


@pytest.mark.parametrize(
    "text", ["`" * 90_000, "```\n" * 22_000, "(" * 90_000, "-" * 90_000 + "1", "assert (\n" * 9_000]
)
def test_it_is_quick_on_what_is_made_to_be_slow(text: str) -> None:
    started = time.perf_counter()
    first_fault(list(blocks_in(text)) or [text])
    asserts_for(text, {"f"})
    examples_for(text, {"f"})
    assert time.perf_counter() - started < 2


@linux
async def test_a_cascade_goes_on_where_the_code_is_wrong(serve: Serve) -> None:
    texts = [f'"{text}"'.replace("\n", "\\n") for text in (WRONG, RIGHT)]
    models = "models:\n" + "".join(
        f"  m{n}: {{engine: scripted, replies: [{{text: {t}}}]}}\n" for n, t in enumerate(texts, 1)
    )
    tiers = "[{model: m1, checks: [code_runs]}, {model: m2}]"
    client = await serve(models, default=f"policy: default\nroutes: [{{name: a, answer: {{cascade: {tiers}}}}}]\n")
    for stream in (False, True):
        reply = await client.chat("Write double.\nassert double(4) == 8", stream=stream)
        assert (reply.text, reply.gateway["path"]) == (RIGHT, "m1!code_runs,m2")
        assert b"x + 1" not in reply.body
