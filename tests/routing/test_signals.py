"""Each signal, and each comparison, on the requests it is for."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from gateway.chat import ChatRequest
from gateway.config import plugins
from gateway.routing.signals import SIGNALS
from tests.conftest import build_from

ROOT = Path(__file__).parents[2]


def ask(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
TOOL = {"type": "function", "function": {"name": "f"}}

CASES = [
    ("{input_tokens: {below: 100}}", ask("short"), True),
    ("{input_tokens: {below: 100}}", ask("long " * 200), False),
    ("{input_tokens: {above: 100, below: 1000}}", ask("long " * 200), True),
    ("{turns: 1}", ask(), True),
    ("{turns: [2, 3]}", ask(), False),
    ("{turns: {in: [1, 2]}}", ask(), True),
    ("{has: image}", {**ask(), "messages": [{"role": "user", "content": [IMAGE]}]}, True),
    ("{has: [image, audio]}", {**ask(), "messages": [{"role": "user", "content": [AUDIO]}]}, True),
    ("{has: image}", ask(), False),
    ("{has: tools}", ask(tools=[TOOL]), True),
    ("{has: tools}", ask(tools=[]), False),
    ("{has: code}", ask("what does this do?\n```python\nprint(1)\n```"), True),
    ("{has: code}", ask("fix it\ndef f(x):\n    return x + 1\n"), True),
    ("{has: code}", ask("if you go,\nfor all I care, stay away"), False),
    ("{has: code}", ask("a list:\n- one\n- two\nand import taxes"), False),
    ("{response_format: json_schema}", ask(response_format={"type": "json_schema", "json_schema": {}}), True),
    ("{response_format: text}", ask(), True),
    ("{response_format: [json_object, json_schema]}", ask(response_format=None), False),
    ("{language: de}", ask("Wie spät ist es eigentlich gerade in Tokio?"), True),
    ("{language: [fr, es]}", ask("Wie spät ist es eigentlich gerade in Tokio?"), False),
    ("{not: {language: en}}", ask("今天天气怎么样？明天会下雨吗？"), True),
    ("{keywords: [legal, tax return]}", ask("Is this LEGAL?"), True),
    ("{keywords: [legal, tax return]}", ask("illegally"), False),
    ("{keywords: legal}", ask("about my tax return"), False),
    ("{keywords: [C++]}", ask("I like c++."), True),
    (r"{regex: 'INV-\d+'}", ask("see INV-12"), True),
    (r"{regex: ['INV-\d+', '^hi']}", ask("hi there"), True),
    (r"{regex: 'INV-\d+'}", ask("see inv-12"), False),
    ("{metadata: {tier: gold}}", ask(metadata={"tier": "gold"}), True),
    ("{metadata: {tier: [gold, silver], app: x}}", ask(metadata={"tier": "gold"}), False),
    ("{metadata: {tier: gold}}", ask(), False),
    ("{header: {X-Team: legal}}", ask(), True),
    ("{header: {x-other: legal}}", ask(), False),
    ("{key: app}", ask(), True),
    ("{key: other}", ask(), False),
    ("{requested_model: auto}", ask(), True),
    ("{background: false}", ask(), True),
    ("{all: [{turns: 1}, {not: {has: image}}]}", ask(), True),
    ("{any: [{has: image}, {keywords: [hello]}]}", ask(), True),
    ("{any: [{has: image}, {has: audio}]}", ask(), False),
    ("{turns: 1, has: image}", ask(), False),
]


@pytest.mark.parametrize(("when", "body", "holds"), CASES, ids=[f"{i} {case[0]}" for i, case in enumerate(CASES)])
async def test_a_condition(tmp_path: Path, when: str, body: dict[str, Any], holds: bool) -> None:
    policy = f"""
    policy: default
    routes:
      - name: yes
        when: {when}
        answer: {{model: m}}
      - {{name: 'no', answer: {{model: m}}}}
    """.replace("name: yes", "name: 'yes'")
    gateway, _ = build_from(tmp_path, "models: {m: {engine: scripted, replies: [{text: hi}]}}", default=policy)
    decision = await gateway.policies["auto"].decide(ChatRequest(body, headers={"x-team": "legal"}, key="app"))
    assert (decision.route.name == "yes") is holds


async def test_only_what_a_rule_reads_is_computed_and_once(tmp_path: Path) -> None:
    policy = """
    policy: default
    routes:
      - {name: a, when: {turns: 5}, answer: {model: m}}
      - {name: b, when: {turns: 1}, answer: {model: m}}
      - {name: c, when: {language: de}, answer: {model: m}}
    """
    gateway, _ = build_from(tmp_path, "models: {m: {engine: scripted, replies: [{text: hi}]}}", default=policy)
    decision = await gateway.policies["auto"].decide(ChatRequest(ask()))
    assert [(fact["signal"], fact["value"]) for fact in decision.facts.known.as_json(for_journal=False)] == [
        ("turns", 1)
    ]


def test_the_docs_have_every_signal_and_no_other() -> None:
    plugins.load()
    text = (ROOT / "docs" / "policies.md").read_text()
    table = text.split("## When: signals")[1].split("## ")[0]
    documented = {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")}
    assert documented == set(SIGNALS)


@pytest.mark.parametrize(
    "text", ["const " + "=" * 19_900 + "\nplain words", "\t" * 8000 + "\nb", "if " * 6000 + "\n" + "x" * 9000]
)
async def test_hostile_text_does_not_hold_up_the_loop(text: str) -> None:
    plugins.load()
    for name in ("has", "background", "keywords", "input_tokens"):
        signal = SIGNALS[name]
        started = time.perf_counter()
        value: Any = signal.compute(ChatRequest(ask(text)), signal.prepare(["x"]) if signal.prepare else None)
        if signal.waits:
            await value
        assert time.perf_counter() - started < 0.5, "the quadratic pattern that stood here took seconds"
