"""`gateway report`: spending as tables and CSV."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from gateway import cli, report_cli
from gateway.costs.ledger import UsageSums
from gateway.costs.savings import PolicySums, savings_of
from gateway.report import show_idle, show_savings, show_spent, write_csv
from gateway.store.spent import MEASURES, Idle, Spent
from tests.conftest import running

MODELS = """
models:
  core: {engine: scripted, replies: [{text: easy as pie}], price: {output_usd_per_mtok: 2}}
  expert: {engine: scripted, replies: [{text: it is so}], price: {output_usd_per_mtok: 20}}
"""
POLICY = """
policy: default
serves: [auto]
routes: [{name: all, answer: {cascade: [{model: core, checks: [not_empty]}, {model: expert}]}}]
"""


@pytest.fixture
async def folder(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a gateway that has answered three requests."""
    async with running(tmp_path, MODELS, default=POLICY) as client:
        for _ in range(3):
            await client.chat("easy")
    monkeypatch.setenv("GATEWAY_HOME", str(home))
    monkeypatch.setattr(report_cli, "console", Console(width=200))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, ["report", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def shown(show: object, *arguments: object) -> str:
    console = Console(file=io.StringIO(), width=250)
    show(*arguments, console)  # type: ignore[operator]
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_spending_by_whom_somebody_asks(folder: Path) -> None:
    rows = json.loads(run("--by", "policy", "--by", "model,day", "--json", "--since", "2d"))["data"]
    assert [(row["policy"], row["model"], row["requests"], row["output_tokens"]) for row in rows] == [
        ("default", "core", 3, 9)
    ]
    assert rows[0]["cost_usd"] == pytest.approx(18e-6)
    assert json.loads(run("--by", "model", "--until", "2020-01-01", "--json"))["data"] == []
    assert "core" in run("--by", "model")


def test_the_whole_report_has_savings(folder: Path) -> None:
    told = json.loads(run("--json"))
    assert told["saved_usd"]["largest"] == pytest.approx(162e-6)
    assert told["spent"][0]["layer"] == "remote" and told["idle"] == []
    text = run()
    assert "the largest" in text and "$0.000162 (90%)" in text and "3 of 3, 3 estimated" in text


def test_csv_opens_cleanly(folder: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run("--csv"))))
    assert len(rows) == 1
    groups = ("day", "key", "policy", "route", "model", "layer", "purpose")
    assert tuple(rows[0]) == (*groups, *MEASURES, "known_cost_usd", "energy_j")
    assert rows[0]["model"] == "core" and float(rows[0]["cost_usd"]) == pytest.approx(18e-6)
    assert rows[0]["energy_j"] == "" and rows[0]["unknown_energy"] == "3", "what is not known is not 0"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--by", "user"), "'user' is no group"),
        (("--since", "soon"), "'soon' is no time"),
        (("--since", "1d", "--days", "1"), "the same as --days"),
        (("--csv", "--json"), "one of two"),
    ],
)
def test_bad_usage_is_told(folder: Path, arguments: tuple[str, ...], why: str) -> None:
    result = CliRunner().invoke(cli.app, ["report", *arguments])
    assert result.exit_code == 2 and why in " ".join(result.output.replace("│", "").split())


def test_names_are_no_formulas() -> None:
    names = ["=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("x","y")', "\t=1", "plain", "a,b", 'a"b', "a\nb"]
    rows = [Spent((name,), UsageSums(calls=1, unknown_cost=1)) for name in names]
    out = io.StringIO()
    write_csv(("key",), rows, out)
    read = [row["key"] for row in csv.DictReader(io.StringIO(out.getvalue()))]
    assert read == [f"'{name}" for name in names[:6]] + names[6:]


def test_what_is_unknown_is_said() -> None:
    rows = [
        Spent(("a",), UsageSums(calls=2, cost_usd=1.5, unknown_cost=1, measured_j=5.0, unknown_energy=1)),
        Spent(("b",), UsageSums(calls=1, unknown_cost=1, unknown_energy=1)),
        Spent(("c",), UsageSums(calls=1, measured_j=2.0, modelled_j=3.0)),
    ]
    text = shown(show_spent, ("key",), rows)
    assert "$1.500000 and 1 calls of unknown cost" in text and "5.0 J measured and 1 calls unknown" in text
    assert "5.0 J mixed" in text and "$1.500000 and 2 calls of unknown cost" in text
    idle = shown(show_idle, [Idle("core", 7200, 1800, 5400, 0.15), Idle("other", 60, 0, 60, None)])
    assert "2.00 h" in idle and "0.50 h" in idle and "$0.150000" in idle and "unknown" in idle
    assert "–" in shown(show_savings, [savings_of("p", PolicySums())])
