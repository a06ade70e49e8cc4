"""What a soak makes of its samples. That it runs, and passes, `make soak` shows."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from xml.etree import ElementTree

import aiohttp
import pytest
import yaml

from bench.soak.clients import ACTS, Clients
from bench.soak.crash import Crash
from bench.soak.picture import PANELS, draw
from bench.soak.site import HERE
from bench.soak.verdict import MOST_MB_PER_MIN, Finding, judge, judge_crashes, second_half, slope_per_min
from bench.soak.watch import EVERY_S, Sample
from gateway.backends.script import ScriptSpec

REST = Sample(
    at_s=0.0,
    rss_mb=100.0,
    files=30,
    sockets=14,
    threads=16,
    tasks=40,
    engines=1,
    in_flight=0,
    requests=0,
    rows=0,
    waiting=0,
    dropped=0,
    wal_mb=1.0,
)
AFTER = replace(REST, requests=500, rows=500)
CRASH = Crash(answered=100, lost=3, oldest_lost_s=0.6, engines_gone_s=0.1, ready_s=2.0, is_sound=True)


def samples(mb_per_min: float, late_mb_per_min: float | None = None) -> list[Sample]:
    """Of ten minutes. `late_mb_per_min`: of the second half."""
    late = mb_per_min if late_mb_per_min is None else late_mb_per_min
    taken, size = [], 100.0
    for number in range(120):
        at_s = number * EVERY_S
        size += (mb_per_min if at_s < 300 else late) * EVERY_S / 60
        taken.append(replace(REST, at_s=at_s, rss_mb=size, rows=number * 40, requests=number * 40))
    return taken


def failed(findings: list[Finding]) -> list[str]:
    return [finding.name for finding in findings if not finding.is_passed]


def test_a_sound_run_passes() -> None:
    assert failed(judge(REST, samples(0.0), AFTER, 0, 480, [])) == []


@pytest.mark.parametrize("mb_per_min", [-3.0, 0.0, 0.25, 2.0])
def test_the_slope_is_the_growth(mb_per_min: float) -> None:
    assert slope_per_min(samples(mb_per_min)) == pytest.approx(mb_per_min)


def test_only_growth_that_goes_on_counts() -> None:
    assert failed(judge(REST, samples(5.0, 0.0), AFTER, 0, 480, [])) == [], "what is loaded once"
    assert failed(judge(REST, samples(0.0, MOST_MB_PER_MIN * 2), AFTER, 0, 480, [])) == ["memory is flat"]
    assert second_half(samples(0.0))[0].at_s >= 297


@pytest.mark.parametrize(
    ("after", "missing", "faults", "name"),
    [
        (AFTER, 1, [], "every answer has its row"),
        (replace(AFTER, rows=499), 0, [], "every request has its row"),
        (replace(AFTER, dropped=1), 0, [], "no row was dropped"),
        (replace(AFTER, in_flight=1), 0, [], "no request is left open"),
        (replace(AFTER, tasks=60), 0, [], "no tasks are left behind"),
        (replace(AFTER, sockets=60), 0, [], "no sockets are left behind"),
        (replace(AFTER, files=60), 0, [], "no open files are left behind"),
        (replace(AFTER, threads=60), 0, [], "no threads are left behind"),
        (replace(AFTER, engines=2), 0, [], "no engine processes are left behind"),
        (AFTER, 0, ["a stream was cut"], "nothing failed that should not"),
    ],
)
def test_each_fault_is_named(after: Sample, missing: int, faults: list[str], name: str) -> None:
    assert failed(judge(REST, samples(0.0), after, missing, 480, faults)) == [name]


def test_a_large_log_is_named() -> None:
    taken = [*samples(0.0), replace(REST, at_s=600.0, wal_mb=500.0)]
    assert failed(judge(REST, taken, AFTER, 0, 480, [])) == ["the write-ahead log stays small"]


def test_crashes_may_lose_a_moment() -> None:
    assert failed(judge_crashes([CRASH])) == [] == judge_crashes([])
    assert failed(judge_crashes([CRASH, replace(CRASH, oldest_lost_s=30.0)])) == [
        "kill -9 loses the last second at most"
    ]
    assert failed(judge_crashes([replace(CRASH, is_sound=False)])) == ["and leaves the database sound"]
    assert failed(judge_crashes([replace(CRASH, engines_gone_s=10.0)])) == ["and no engine behind"]


def test_the_chart_is_svg_with_a_line_for_each_thing() -> None:
    tree = ElementTree.fromstring(draw(samples(0.5), "Soak <1>", "10 minutes & more"))
    lines = [element for element in tree.iter() if element.tag.endswith("polyline")]
    assert len(lines) == len(PANELS)
    assert all(len(line.attrib["points"].split()) == 120 for line in lines)


def test_its_upstream_is_a_script_that_fails_now_and_then() -> None:
    script = ScriptSpec.model_validate(yaml.safe_load((HERE / "script.yaml").read_text()))
    chances = [reply.chance for reply in script.replies if reply.chance is not None]
    assert 0.1 < sum(chances) < 0.2


async def test_a_client_that_cannot_reach_the_server_goes_on_and_counts() -> None:
    async with aiohttp.ClientSession() as session:
        clients = Clients("http://127.0.0.1:9", "key", session, random.Random(1))
        for act in ACTS:
            if act.__name__ != "leaves_before_the_answer":  # which takes it as an end like any other
                with pytest.raises((aiohttp.ClientError, OSError)):
                    await act(clients)
        assert clients.sent == 0 and not clients.ids
        async with clients.at_work(3):
            await asyncio.sleep(0.3)
        assert clients.sent >= 3, "what others noted is noted here"
        assert not session.closed
