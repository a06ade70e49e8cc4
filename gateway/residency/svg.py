"""A timeline as an SVG picture: one row a model, and below them what all took of memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import groupby
from xml.sax.saxutils import escape

from gateway.residency.timeline import Kind, Life, Timeline

WIDTH = 960
LETTER = 7.5  # a generous width for one
MOST_LETTERS = 32  # of a name
TOP, ROW, BAR = 66, 28, 16
GAP, MEMORY, FOOT = 30, 120, 34
RIGHT = 24
LEAST = 1.0  # units: what is narrower is not drawn beside its like
STEPS_S = (1, 5, 15, 60, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86_400, 7 * 86_400, 30 * 86_400)
MOST_TICKS = 9
MIB, GIB = 2**20, 2**30
CLASSES = {
    Kind.WAITING: "waiting",
    Kind.LOADING: "loading",
    Kind.LOADED: "loaded",
    Kind.DRAINING: "draining",
    Kind.SLEEPING: "sleeping",
    Kind.UNLOADING: "unloading",
    Kind.FAILED: "failed",
}
STYLE = """
  text { font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
  .title { font-size: 16px; font-weight: 600; }
  .small { font-size: 11px; fill: #59636e; }
  .page { fill: #ffffff; }
  .grid { stroke: #d1d9e0; }
  .waiting { fill: #d1d9e0; }
  .loading { fill: #e0a100; }
  .loaded { fill: #1a7f37; }
  .draining { fill: #8250df; }
  .sleeping { fill: #a6d9b2; }
  .unloading { fill: #59636e; }
  .failed { fill: #cf222e; }
  .evicted, .crashed, .refused { stroke: #ffffff; stroke-width: 1; }
  .evicted { fill: #1f2328; }
  .crashed, .refused { fill: #cf222e; }
  .taken { fill: none; stroke: #0969da; stroke-width: 1.5; }
  .area { fill: #0969da; fill-opacity: 0.15; }
  .gpu { fill: none; stroke: #bf3989; stroke-width: 1.5; }
  .budget { stroke: #59636e; stroke-dasharray: 5 4; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .small { fill: #9198a1; }
    .page { fill: #0d1117; }
    .grid { stroke: #3d444d; }
    .waiting { fill: #3d444d; }
    .loading { fill: #d29922; }
    .loaded { fill: #3fb950; }
    .draining { fill: #ab7df8; }
    .sleeping { fill: #1f5a31; }
    .unloading { fill: #9198a1; }
    .failed { fill: #f85149; }
    .evicted, .crashed, .refused { stroke: #0d1117; }
    .evicted { fill: #f0f6fc; }
    .crashed, .refused { fill: #f85149; }
    .taken { stroke: #4493f8; }
    .area { fill: #4493f8; }
    .gpu { stroke: #db61a2; }
    .budget { stroke: #9198a1; }
  }
"""


def svg(timeline: Timeline) -> str:
    """Each span and each mark says why when it is pointed at."""
    return "\n".join([*_Picture(timeline).parts(), ""])


class _Picture:
    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        letters = max((min(len(life.name), MOST_LETTERS) for life in timeline.lives), default=0)
        self._left = 24 + LETTER * max(8, letters)
        self._below = TOP + ROW * len(timeline.lives) + GAP  # where memory begins
        self._height = self._below + MEMORY + FOOT
        sizes = [size for _, both in timeline.memory for size in both]
        self._most = max(1, *sizes, *(limit for limit in timeline.budget if limit is not None)) * 1.05
        self._has_gpu = any(gpu for _, (_, gpu) in timeline.memory)

    def parts(self) -> Iterator[str]:
        title = f"Models in memory, {_when(self._timeline.since)} to {_when(self._timeline.until)}"
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self._height}" width="{WIDTH}"'
            f' height="{self._height}" role="img">'
        )
        yield f"<title>{title}</title>"
        yield f"<style>{STYLE}</style>"
        yield f'<rect class="page" width="{WIDTH}" height="{self._height}"/>'
        yield f'<text class="title" x="12" y="24">{title}</text>'
        yield from self._legend()
        yield from self._grid()
        for number, life in enumerate(self._timeline.lives):
            yield from self._row(life, TOP + ROW * number + ROW / 2)
        yield from self._memory()
        yield "</svg>"

    def _x(self, at: float) -> float:
        length_s = self._timeline.until - self._timeline.since
        share = (at - self._timeline.since) / length_s if length_s > 0 else 1.0
        return self._left + share * (WIDTH - self._left - RIGHT)

    def _y(self, size: float) -> float:
        return self._below + MEMORY * (1 - size / self._most)

    def _legend(self) -> Iterator[str]:
        x = 12.0
        for kind, name in CLASSES.items():
            yield f'<rect class="{name}" x="{x:.1f}" y="36" width="12" height="12" rx="2"/>'
            yield f'<text class="small" x="{x + 17:.1f}" y="46">{kind}</text>'
            x += 30 + 6.2 * len(kind)
        for name in ("evicted", "crashed", "refused"):
            yield _triangle(name, x + 6, 38, "")
            yield f'<text class="small" x="{x + 17:.1f}" y="46">{name}</text>'
            x += 30 + 6.2 * len(name)

    def _grid(self) -> Iterator[str]:
        bottom, length_s = self._below + MEMORY, self._timeline.until - self._timeline.since
        for at in _ticks(self._timeline.since, self._timeline.until):
            x = self._x(at)
            yield f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}"/>'
            label = _short(at, length_s)
            yield f'<text class="small" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>'

    def _row(self, life: Life, middle: float) -> Iterator[str]:
        name = life.name if len(life.name) <= MOST_LETTERS else life.name[: MOST_LETTERS - 1] + "…"
        yield f'<text x="{self._left - 10}" y="{middle + 4}" text-anchor="end">{_text(name)}</text>'
        drawn: dict[Kind, float] = {}
        for span in life.spans:
            x, end = self._x(span.begin), self._x(span.end)
            if end - drawn.get(span.kind, -1.0) < LEAST:
                continue
            drawn[span.kind] = end
            lasted = f"{_when(span.begin)}, {span.end - span.begin:.1f} s"
            yield (
                f'<rect class="{CLASSES[span.kind]}" x="{x:.1f}" y="{middle - BAR / 2}"'
                f' width="{max(LEAST, end - x):.1f}" height="{BAR}">'
                f"<title>{_text(f'{life.name}: {span.kind}, {lasted}: {span.why}')}</title></rect>"
            )
        last = -1.0
        for mark in life.marks:
            x = self._x(mark.at)
            if x - last >= LEAST:
                last = x
                told = f"{life.name}: {mark.what}, {_when(mark.at)}: {mark.why}"
                yield _triangle(mark.what, x, middle - BAR / 2 - 4, told)

    def _memory(self) -> Iterator[str]:
        bottom, right = self._below + MEMORY, WIDTH - RIGHT
        yield f'<line class="grid" x1="{self._left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>'
        for share in (0.0, 0.5, 1.0):
            size = self._most * share / 1.05
            label, y = _size(size), self._y(size) + 4
            yield f'<text class="small" x="{self._left - 10}" y="{y:.1f}" text-anchor="end">{label}</text>'
        points = self._line(0)
        yield f'<polygon class="area" points="{self._left:.1f},{bottom} {points} {right:.1f},{bottom}"/>'
        x = self._left
        for kind, name, of in self._kinds():
            most = _size(max(sizes[kind] for _, sizes in self._timeline.memory))
            title = f"<title>taken of {of}: at most {most}</title>"
            yield f'<polyline class="{name}" points="{self._line(kind)}">{title}</polyline>'
            limit = self._timeline.budget[kind]
            if limit is not None:
                y = self._y(limit)
                title = f"<title>budget of {of}: {_size(limit)}</title>"
                yield f'<line class="budget" x1="{self._left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}">{title}</line>'
            yield f'<path class="{name}" d="M{x:.1f} {self._below - 12}h22"/>'
            yield f'<text class="small" x="{x + 28:.1f}" y="{self._below - 8}">{of}</text>'
            x += 44 + 6.2 * len(of)

    def _kinds(self) -> list[tuple[int, str, str]]:
        """Of memory: place among sizes, class, name."""
        return [(0, "taken", "memory"), *([(1, "gpu", "GPUs")] if self._has_gpu else [])]

    def _line(self, kind: int) -> str:
        """Points of a line that goes up and down in steps; of those that fall together the largest is drawn."""
        steps = [(at, sizes[kind]) for at, sizes in self._timeline.memory]
        points: list[str] = []
        column, most, size = self._x(steps[0][0]), 0, 0
        for at, next_size in [*steps, (self._timeline.until, steps[-1][1])]:
            x = self._x(at)
            if x - column >= LEAST:
                points += [f"{column:.1f},{self._y(most):.1f}", f"{column:.1f},{self._y(size):.1f}"]
                points.append(f"{x:.1f},{self._y(size):.1f}")
                column, most = x, size
            most, size = max(most, next_size), next_size
        points += [f"{column:.1f},{self._y(most):.1f}", f"{column:.1f},{self._y(size):.1f}"]
        return " ".join(point for point, _ in groupby(points))


def _triangle(name: str, x: float, y: float, told: str) -> str:
    """It points down, at (x, y + 9)."""
    title = f"<title>{_text(told)}</title>" if told else ""
    return f'<path class="{name}" d="M{x - 5:.1f} {y:.1f}h10l-5 9z">{title}</path>'


def _ticks(since: float, until: float) -> list[float]:
    """At whole hours, minutes and the like, in local time."""
    step = next((step for step in STEPS_S if (until - since) / step <= MOST_TICKS), STEPS_S[-1])
    offset = time.localtime(since).tm_gmtoff
    first = -(-(since + offset) // step) * step - offset
    return [first + step * number for number in range(int((until - first) // step) + 1)]


def _short(at: float, length_s: float) -> str:
    there = time.localtime(at)
    if length_s < 600:
        return time.strftime("%H:%M:%S", there)
    is_midnight = (there.tm_hour, there.tm_min) == (0, 0)
    return time.strftime("%d %b" if is_midnight else "%H:%M", there)


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _size(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"


def _text(text: str) -> str:
    """As XML takes it: an error's text may hold anything."""
    return escape("".join(c if c.isprintable() else " " for c in text))
