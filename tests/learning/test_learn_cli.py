"""`gateway learn` and `gateway replay`, as a user types them, on a journal that a gateway wrote."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.errors import GatewayError
from tests.asgi import Client
from tests.conftest import running, write_config
from tests.learning.workloads import large, line, small, write

MODELS = """
models:
  small:
    engine: scripted
    price: {input_usd_per_mtok: 0, output_usd_per_mtok: 100}
    replies:
      - {when: {contains: easy}, text: fine, logprobs: -0.1}
      - {when: {contains: unsure}, text: fine, logprobs: -0.7}
      - {text: hm, logprobs: -2.0}
  large:
    engine: scripted
    price: {input_usd_per_mtok: 0, output_usd_per_mtok: 10000}
    replies: [{text: certainly so}]
"""
POLICY = """
policy: default
learn: true
routes:
  - name: long
    when: {input_tokens: {above: 1000}}
    answer: {model: large}
  - name: rest
    answer:
      cascade:
        - {model: small, checks: [not_empty, {logprob: {mean_above: -0.5}}]}
        - {model: large}
"""


def policy_file(folder: Path, floor: float = -1.0, first: str = "small") -> Path:
    path = folder / "new.yaml"
    path.write_text(POLICY.replace("-0.5", str(floor)).replace("model: small", f"model: {first}"))
    return path


@pytest.fixture
def gateway(home: Path, tmp_path: Path, minilm_home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GATEWAY_HOME", str(home))
    (home / "models").symlink_to(minilm_home / "models")
    files = write_config(tmp_path, MODELS, default=POLICY)

    def run(*words: str) -> Result:
        options = ["--models", str(files[0]), "--policies", str(files[1])]
        wanted = [] if "status" in words or "revert" in words else options
        return CliRunner().invoke(app, [*words, *wanted], catch_exceptions=False)

    return run


def asked(folder: Path, texts: list[str], rate: dict[int, float] | None = None) -> None:
    """Has a gateway answer them, journal and all."""

    async def ask() -> None:
        async with running(folder, MODELS, default=POLICY) as client:
            for number, text in enumerate(texts):
                reply = await client.chat(text)
                if rate and number in rate:
                    await rated(client, reply.gateway["trace"], rate[number])

    asyncio.run(ask())


async def rated(client: Client, trace: str, value: float) -> None:
    reply = await client.call("POST", "/v1/feedback", {"trace": trace, "metric": "good", "value": value})
    assert reply.status in (200, 201), reply.body


def test_the_journal_is_replayed_under_another_threshold(gateway: Any, tmp_path: Path) -> None:
    asked(tmp_path, ["easy one", "unsure one", "hard one", "easy two"], rate={0: 1.0, 3: 0.0})
    done = gateway("replay", "journal", "--policy", str(policy_file(tmp_path)), "--against", "current", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    new, current, was = report["runs"][:3]
    assert (new["name"], current["name"], was["name"]) == ("new", "current default", "as it was")
    assert new["covered"] == current["covered"] == was["covered"] == 4
    assert new["paths"] == {"small": 3, "small!logprob,large": 1}
    assert current["paths"] == was["paths"] == {"small": 2, "small!logprob,large": 2}
    assert new["escalated"] == 0.25 and current["escalated"] == 0.5
    assert current["cost_usd"]["total"] == pytest.approx(was["cost_usd"]["total"])
    assert new["cost_usd"]["total"] < current["cost_usd"]["total"]
    assert current["quality"]["value"] == 0.5 and current["quality"]["unknown"] == 2
    against = {one["against"]: one for one in report["differences"]}
    assert against["current default"]["cost_usd"]["value"] < 0


def test_what_the_journal_does_not_know_is_left_out(gateway: Any, tmp_path: Path) -> None:
    asked(tmp_path, ["easy one", "hard one"])
    done = gateway("replay", "journal", "--policy", str(policy_file(tmp_path, first="large")), "--json")
    [new, *_] = json.loads(done.stdout)["runs"]
    # only the large model's words were kept, of the one request that went on to it: that it is not sure of them by
    # its logprobs nobody knows
    assert new["covered"] == 0 and new["not_covered"] == {"large": 1, "large: logprob": 1}
    tighter = gateway("replay", "journal", "--policy", str(policy_file(tmp_path, floor=-0.05)), "--json")
    [new, *_] = json.loads(tighter.stdout)["runs"]
    assert new["not_covered"] == {"large": 1} and new["paths"] == {"small!logprob,large": 1}


def test_a_workload_is_replayed_and_shown(gateway: Any, tmp_path: Path) -> None:
    lines = [line(n, small=small(n % 2, logprobs=-0.1 if n % 2 else -2), large=large()) for n in range(30)]
    workload = write(tmp_path / "w.jsonl.gz", lines)
    done = gateway("replay", str(workload), "--policy", str(policy_file(tmp_path)), "--local", "small")
    assert done.exit_code == 0, done.output
    assert "30 of 30" in done.stdout and "50.0%" in done.stdout and "always dearest and best: large" in done.stdout
    assert "+0.0000 [+0.0000, +0.0000]" in done.stdout.replace("\n", "")
    missing = gateway("replay", str(workload), "--policy", str(tmp_path / "none.yaml"))
    assert missing.exit_code == 2
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(GatewayError, match="no recorded requests"):
        gateway("replay", str(tmp_path / "empty.jsonl"), "--policy", str(policy_file(tmp_path)))


def test_learning_writes_reports_and_is_taken_back(gateway: Any, tmp_path: Path, home: Path) -> None:
    nothing = gateway("learn")
    assert nothing.exit_code == 0 and "nothing to learn yet" in nothing.stdout and not (home / "learned").exists()
    asked(tmp_path, [f"{'easy' if n % 10 else 'hard'} {n}" for n in range(120)])

    dry = gateway("learn", "--dry-run")
    assert "capability from 96 rows, learned" in dry.stdout and "+cells:" in dry.stdout
    assert not (home / "learned").exists()

    done = gateway("learn", "--json")
    [file] = json.loads(done.stdout)["files"]
    assert file["file"] == "capability" and file["refused"] == "" and file["held_out"]["gain"]["low"] > 0
    text = (home / "learned" / "capability.yaml").read_text()
    assert text.startswith("# Written by `gateway learn`") and "small:" in text

    shown = json.loads(gateway("learn", "status", "--json").stdout)
    assert shown["former"] == 1
    assert [(one["file"], one["used"], one["rows"]) for one in shown["files"]] == [("capability", True, 96)]
    assert "in use" in gateway("learn", "status").stdout

    gateway("learn")
    assert gateway("learn", "revert").exit_code == 0
    assert (home / "learned" / "capability.yaml").read_text() == text
    assert "nothing learned" in gateway("learn", "revert").stdout
    assert "nothing is learned yet" in gateway("learn", "status").stdout


def test_a_share_is_for_a_threshold_that_a_rule_names(gateway: Any) -> None:
    for text, said in (
        ("nobody=0.2", "no rule compares with learned.nobody"),
        *((text, "no NAME=SHARE") for text in ("x", "x=2", "=0.1", "x=much")),
    ):
        with pytest.raises(GatewayError, match=said):
            gateway("learn", "--share", text)


def test_a_model_is_probed_from_the_command_line(gateway: Any, home: Path) -> None:
    done = gateway("learn", "probe", "large", "--n", "16", "--max-cost-usd", "1")
    assert done.exit_code == 0 and "large: 16 questions" in done.stdout and "knowledge" in done.stdout
    assert {path.name for path in (home / "learned").glob("*.yaml")} == {"capability.yaml", "probes.yaml"}
    again = json.loads(gateway("learn", "probe", "small", "--n", "8", "--json").stdout)
    assert again["topics"]["all"]["asked"] == 8 and again["stopped"] is False
