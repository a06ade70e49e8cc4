"""The picture of a timeline: XML without scripts, whatever the names and errors hold."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from gateway.residency.svg import STEPS_S, svg
from gateway.residency.timeline import timeline
from gateway.store.residency import ResidencyRow
from tests.residency.recorded import EPOCH, MIB
from tests.residency.test_timeline import swapped

NAMESPACE = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def picture(rows: list[ResidencyRow], since: float = 0, until: float = 60) -> str:
    found = timeline(rows, EPOCH + since, EPOCH + until)
    assert found is not None
    return svg(found)


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def of_class(root: ElementTree.Element, tag: str, name: str) -> list[ElementTree.Element]:
    return [element for element in root.iter(NAMESPACE + tag) if element.get("class") == name]


def hovers(root: ElementTree.Element, tag: str, name: str) -> list[str]:
    titles = (element.find(f"{NAMESPACE}title") for element in of_class(root, tag, name))
    return [str(title.text) for title in titles if title is not None]


def test_spans_and_marks_say_why() -> None:
    root = parsed(picture(swapped()))
    assert hovers(root, "rect", "loaded") == [
        "a: loaded, 2027-01-15 08:00:06, 14.0 s: loaded",
        "b: loaded, 2027-01-15 08:00:21, 11.0 s: loaded",
    ]
    assert hovers(root, "path", "evicted") == ["a: evicted, 2027-01-15 08:00:20: makes room for 'b'"]
    assert hovers(root, "polyline", "taken") == ["taken of memory: at most 3 MiB"]
    assert hovers(root, "line", "budget") == ["budget of memory: 4 MiB"]
    assert not of_class(root, "polyline", "gpu")


def test_spans_lie_where_their_times_are() -> None:
    root = parsed(picture(swapped()))
    a, b = of_class(root, "rect", "loaded")[1:]  # the first is the legend's
    begin, end = float(a.get("x", "")), float(b.get("x", "")) + float(b.get("width", ""))
    a_second = float(a.get("width", "")) / 14
    assert end - begin == pytest.approx(26.1 * a_second, rel=0.01)
    assert a.get("y") != b.get("y")


def test_the_budget_lies_above_what_is_taken() -> None:
    root = parsed(picture(swapped()))
    (line,) = of_class(root, "polyline", "taken")
    (budget,) = of_class(root, "line", "budget")
    heights = [float(point.split(",")[1]) for point in line.get("points", "").split()]
    assert float(budget.get("y1", "")) < min(heights)
    places = [float(point.split(",")[0]) for point in line.get("points", "").split()]
    assert places == sorted(places)


def test_gpus_have_a_line_of_their_own() -> None:
    rows = [replace(row, gpu_bytes=5 * MIB if row.model == "a" else 9 * MIB) for row in swapped()]
    root = parsed(picture(rows))
    assert hovers(root, "polyline", "gpu") == ["taken of GPUs: at most 9 MiB"]
    assert hovers(root, "line", "budget") == ["budget of memory: 4 MiB", "budget of GPUs: 9 MiB"]


def test_it_is_readable_in_light_and_dark_and_runs_nothing() -> None:
    text = picture(swapped())
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"<script|\bon\w+=|javascript:|href|url\(", text)
    light, dark = text.split("@media")[0], text.split("@media")[1]
    named = set(re.findall(r'class="([\w-]+)"', text))
    assert named <= {name for name in re.findall(r"\.([\w-]+)", light)}
    assert named - {"title"} <= {name for name in re.findall(r"\.([\w-]+)", dark)}


def test_hostile_names_and_errors_are_only_text() -> None:
    name, why = '<script>alert("&")</script>' + "x" * 100, "it said \x00\x1b[31m\ud800 ]]> \uffff &lt; \"'"
    rows = [replace(row, model=name if row.model == "a" else row.model, why=why) for row in swapped()]
    root = parsed(picture(rows))
    assert not list(root.iter(f"{NAMESPACE}script"))
    assert any(told.startswith('<script>alert("&")</script>') for told in hovers(root, "rect", "loaded"))
    assert all(len(text.text or "") <= 60 for text in root.iter(f"{NAMESPACE}text"))


def test_a_long_record_stays_a_small_picture() -> None:
    story = [row for row in swapped() if row.model]
    rows = [replace(row, at=row.at + 60 * number) for number in range(1000) for row in story]
    text = picture(rows, until=60 * 1000)
    assert len(text) < 1_000_000
    assert parsed(text) is not None


@pytest.mark.parametrize("length_s", [0.001, 1, 59, 3600, 86_400, 30 * 86_400, 400 * 86_400])
def test_times_stand_at_round_places_and_not_too_many(length_s: float) -> None:
    rows = [replace(row, at=EPOCH) for row in swapped()]
    root = parsed(picture(rows, until=length_s))
    labels = [text for text in root.iter(f"{NAMESPACE}text") if text.get("text-anchor") == "middle"]
    assert len(labels) <= 15 and (length_s < STEPS_S[1] or len(labels) >= 2)


def test_one_moment_is_a_picture_too() -> None:
    rows = [replace(row, at=EPOCH) for row in swapped()]
    assert parsed(picture(rows, until=0)) is not None
