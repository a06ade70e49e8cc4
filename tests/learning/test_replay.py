"""Recorded requests under policies: the real tree on recorded answers, and nothing made up."""

import textwrap
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.learning.recorded import Outcome, Recording, read_workload
from gateway.learning.replay import Run, always, baselines, compared, config_for, play, policy_in, summary
from tests.learning.workloads import large, line, small, write

CASCADE = """
    policy: p
    routes:
      - name: all
        answer:
          cascade:
            - {model: small, checks: [not_empty, {logprob: {mean_above: -1}}]}
            - {model: large}
"""


def policy(folder: Path, text: str) -> Path:
    path = folder / "p.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def played(folder: Path, lines: list[dict[str, Any]], text: str, home: Path | None = None) -> Run:
    recordings = list(read_workload(write(folder / "w.jsonl", lines)))
    names = {name for one in recordings for name in one.outcomes}
    config = config_for(None, policy(folder, text), names)
    return play(config, home or folder / "home", recordings, policy_in(config))


def test_a_cascade_is_replayed_with_its_checks_costs_and_waits(tmp_path: Path) -> None:
    lines = [
        line(1, small=small(1.0, logprobs=[-0.1, -0.2]), large=large(1.0)),
        line(2, small=small(0.0, logprobs=[-3.0, -0.2]), large=large(1.0)),
        line(3, small=small(0.0, answer="", logprobs=[-0.1]), large=large(0.5)),
    ]
    run = played(tmp_path, lines, CASCADE)
    assert [one.path for one in run.played if one] == ["small", "small!logprob,large", "small!not_empty,large"]
    assert [one.quality for one in run.played if one] == [1.0, 1.0, 0.5]
    assert [one.cost_usd for one in run.played if one] == pytest.approx([0.001, 0.011, 0.011])
    assert [one.latency_s for one in run.played if one] == pytest.approx([1.0, 6.0, 6.0])
    found = summary(run, frozenset({"small"}))
    assert found["escalated"] == pytest.approx(2 / 3) and found["local"] == pytest.approx(1 / 3)
    assert found["latency_s"]["p50"] == 6.0 and found["covered"] == 3


def test_nothing_is_replayed_from_a_cache(tmp_path: Path) -> None:
    lines = [line(1, small=small(1.0)), line(1, small=small(0.0)) | {"id": "asked again"}]
    text = "policy: p\nroutes: [{name: all, answer: {model: small, cache: true}}]\n"
    assert [one.path for one in played(tmp_path, lines, text).played if one] == ["small", "small"]


def test_rules_are_asked_for_real(tmp_path: Path) -> None:
    text = """
        policy: p
        routes:
          - {name: one, when: {regex: "What is 1 "}, answer: {model: large}}
          - {name: rest, answer: {model: small}}
    """
    run = played(tmp_path, [line(n, small=small(), large=large()) for n in (1, 2)], text)
    assert [(one.route, one.model) for one in run.played if one] == [("one", "large"), ("rest", "small")]


def test_what_was_not_recorded_is_left_out_and_counted(tmp_path: Path) -> None:
    lines = [
        line(1, small=small(logprobs=-0.5), large=large()),
        line(2, small=small(logprobs=-2.0)),  # nobody knows what the large one would have said
        line(3, small=small(), large=large()),  # nor how sure the small one was
        line(4, small={"quality": 1, "logprobs": -0.5}, large=large()),  # nor what it said
    ]
    run = played(tmp_path, lines, CASCADE)
    assert [one is None for one in run.played] == [False, True, True, True]
    assert run.missing == {"large": 1, "small: logprob": 1, "small: not_empty": 1}
    assert summary(run)["quality"]["value"] == 1.0


def test_a_verdict_that_was_recorded_stands_for_words_that_were_not(tmp_path: Path) -> None:
    checks = {"not_empty": True}
    lines = [
        line(1, small={"quality": 1, "logprobs": -0.5, "checks": checks}, large=large()),
        line(2, small={"quality": 0, "logprobs": -0.5, "checks": {"not_empty": False}}, large=large()),
    ]
    run = played(tmp_path, lines, CASCADE)
    assert [one.path for one in run.played if one] == ["small", "small!not_empty,large"]


def test_a_model_is_not_asked_twice_for_one_recorded_answer(tmp_path: Path) -> None:
    text = """
        policy: p
        routes:
          - name: all
            answer:
              cascade:
                - {model: small, checks: [{regex: never}]}
                - {model: small}
    """
    run = played(tmp_path, [line(1, small=small())], text)
    assert run.played == [None] and run.missing == {"small: asked twice": 1}


def test_errors_limits_and_money_hold_as_they_do_live(tmp_path: Path) -> None:
    text = """
        policy: p
        routes:
          - name: all
            answer:
              cascade:
                - {model: small, timeout_s: 2}
                - {cascade: [{model: middle, checks: [not_empty]}], max_cost_usd: 0.005}
                - {model: large}
    """
    lines = [
        line(1, small=small(latency_s=3.0), middle=large(), large=large()),
        line(2, small=small(error="unavailable"), middle=small(), large=large()),
        line(3, small=small(), middle=small(), large=large()),
    ]
    run = played(tmp_path, lines, text)
    assert [one.path for one in run.played if one] == ["small!timeout,large", "small!unavailable,middle", "small"]
    assert [one.latency_s for one in run.played if one] == pytest.approx([7.0, 2.0, 1.0], abs=0.05)


def test_a_deadline_around_a_cascade_runs_on_the_replays_clock(tmp_path: Path) -> None:
    text = """
        policy: p
        routes:
          - name: all
            answer:
              timeout_s: 4
              cascade:
                - {model: small, checks: [{regex: never}]}
                - {model: large}
    """
    [one] = played(tmp_path, [line(1, small=small(), large=large(latency_s=3.5))], text).played
    assert one is not None and one.path == "small!regex,large!timeout"
    assert one.latency_s == pytest.approx(4.0, abs=0.05)


def test_a_request_that_nobody_answers_is_worth_nothing(tmp_path: Path) -> None:
    text = "{policy: p, routes: [{name: all, answer: {model: small}}]}"
    [one] = played(tmp_path, [line(1, small=small(error="timeout"))], text).played
    assert one is not None and (one.model, one.quality) == ("", 0.0)


def test_words_that_nobody_kept_are_not_looked_at(tmp_path: Path) -> None:
    text = """
        policy: p
        routes:
          - {name: long, when: {input_tokens: {above: 100}}, answer: {model: large}}
          - {name: tools, when: {has: tools}, answer: {model: large}}
          - {name: rest, answer: {model: small}}
    """
    known = {("input_tokens", None): 20, ("has", None): []}
    outcomes = {"small": Outcome(cost_usd=0.001, latency_s=1.0, quality=1.0)}
    recordings = [
        Recording("a", None, outcomes, signals=known),
        Recording("b", None, outcomes, signals={("input_tokens", None): 20}),
        Recording("c", None, outcomes, signals={("input_tokens", None): 200}),
    ]
    config = config_for(None, policy(tmp_path, text), {"small", "large"})
    run = play(config, tmp_path / "home", recordings, "p")
    assert [one.model if one else None for one in run.played] == ["small", None, None]
    assert run.missing == {"signal has": 1, "large": 1}


def test_differences_are_taken_on_what_both_cover(tmp_path: Path) -> None:
    recordings = list(
        read_workload(
            write(
                tmp_path / "w.jsonl.gz",
                [line(n, small=small(n % 2), large=large(1)) for n in range(40)] + [line(99, small=small(0))],
            )
        )
    )
    cheap, dear = always("small", recordings), always("large", recordings)
    found = compared(cheap, dear)
    assert found["requests"] == 40 and dear.missing == {"large": 1}
    assert found["quality"]["value"] == pytest.approx(-0.5) and found["quality"]["high"] < 0
    assert found["cost_usd"]["value"] == pytest.approx(-0.009) and found["latency_s"]["value"] == pytest.approx(-4)
    names = [run.name for run in baselines(recordings[:-1])]
    assert names == ["always cheapest: small", "always dearest and best: large"]


def test_a_damaged_workload_names_file_and_line(tmp_path: Path) -> None:
    for text, said in (
        ("{", "1: not a JSON object"),
        ('{"prompt": "x", "models": {}}', "1: models"),
        ('{"models": {"a": {}}}', "1: wants 'messages'"),
        ('{"prompt": "x", "models": {"a": {"quality": 2}}}', "1: models.a.quality"),
        ('{"messages": [{}], "models": {"a": {}}}', "1: messages"),
    ):
        (tmp_path / "w.jsonl").write_text(text)
        with pytest.raises(GatewayError, match="w.jsonl") as error:
            list(read_workload(tmp_path / "w.jsonl"))
        assert said in error.value.message, error.value.message
    with pytest.raises(GatewayError, match="cannot read"):
        list(read_workload(tmp_path / "none.jsonl"))


def test_columns_of_the_routing_sets_are_read(tmp_path: Path) -> None:
    shaped = line(1, a={"s": 1.0, "o": 333, "t": 83, "c": 2.87e-05, "p": "chi", "ok": 1, "js": 1, "x": "text"})
    [one] = read_workload(write(tmp_path / "w.jsonl", [shaped]))
    outcome = one.outcomes["a"]
    assert (outcome.quality, outcome.cost_usd, outcome.output_tokens, outcome.answer) == (1.0, 2.87e-05, 83, "text")


def test_choose_is_replayed_with_its_table_and_its_checks(home: Path, minilm_home: Path, tmp_path: Path) -> None:
    (home / "models").symlink_to(minilm_home / "models")
    text = """
        policy: p
        routes:
          - name: all
            answer:
              choose:
                among: [{model: small, checks: [not_empty]}, {model: large, checks: [not_empty]}]
                budget: {usd_per_request: 0.02}
    """
    lines = [
        line(1, small=small(), large=large()),
        line(2, small={"quality": 1, "checks": {"not_empty": True}}, large={"quality": 1}),
    ]
    run = played(tmp_path, lines, text, home)
    [first, second] = run.played
    assert first is not None and first.model in ("small", "large") and first.latency_s in (1.0, 5.0, 6.0)
    assert second is not None or run.missing == {"large: not_empty": 1}
    assert not (home / "state").exists()


def test_a_promise_is_replayed_from_its_beginning(tmp_path: Path) -> None:
    text = """
        policy: p
        quality: {target: 0.9, strong: large}
        routes:
          - name: all
            answer:
              cascade:
                - {model: small, checks: [not_empty, {logprob: {mean_above: -1}}]}
                - {model: large}
    """
    sure, unsure = small(logprobs=[-0.1]), small(0.0, logprobs=[-3.0])
    lines = [line(n, small=sure if n % 2 else unsure, large=large()) for n in range(20)]
    lines.append(line(99, small=small(), large=large()))  # without logprobs nobody knows what it is worth
    run = played(tmp_path, lines, text)
    assert {one.model for one in run.played[1:20:2] if one} == {"small"}
    assert {one.path for one in run.played[0:20:2] if one} == {"small!quality,large"}
    assert run.missing == {"small: quality": 1}
