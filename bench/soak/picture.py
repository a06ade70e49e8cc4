"""The samples as SVG text: one small chart for each thing, all over the same time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bench.chart import STYLE, WIDTH
from bench.soak.watch import Sample

TOP, PANEL, GAP, FOOT = 58, 78, 30, 34
LEFT, RIGHT = 66, 16


@dataclass(frozen=True)
class Panel:
    title: str
    value: Callable[[Sample], float]


PANELS = (
    Panel("memory, MB", lambda sample: sample.rss_mb),
    Panel("open sockets", lambda sample: sample.sockets),
    Panel("tasks of the event loop", lambda sample: sample.tasks),
    Panel("engine processes", lambda sample: sample.engines),
    Panel("write-ahead log, MB", lambda sample: sample.wal_mb),
    Panel("thousand requests, all of them journalled", lambda sample: sample.rows / 1000),
)


def draw(samples: Sequence[Sample], title: str, told: str) -> str:
    """Args: `samples`: at least two; `told`: the line under the title."""
    height = TOP + len(PANELS) * (PANEL + GAP) + FOOT
    last_s = max(samples[-1].at_s, 1.0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}  polyline {{ fill: none; stroke: #0969da; stroke-width: 1.5; }}</style>",
        f'<text class="title" x="12" y="24">{escape(title)}</text>',
        f'<text class="small" x="12" y="42">{escape(told)}</text>',
    ]
    for number, panel in enumerate(PANELS):
        parts += _panel(panel, samples, last_s, TOP + number * (PANEL + GAP))
    for minute in _minutes(last_s):
        text = f"{minute} min" if minute else "0"
        x = _x(minute * 60, last_s)
        parts.append(f'<text class="small" x="{x:.1f}" y="{height - 14}" text-anchor="middle">{text}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, samples: Sequence[Sample], last_s: float, top: int) -> list[str]:
    values = [panel.value(sample) for sample in samples]
    most = _round_up(max(values))
    base = top + 14 + PANEL - 14
    points = " ".join(
        f"{_x(sample.at_s, last_s):.1f},{base - (PANEL - 14) * value / most:.1f}"
        for sample, value in zip(samples, values, strict=True)
    )
    lines = [f'<text class="small" x="{LEFT}" y="{top + 8}">{escape(panel.title)}</text>']
    for share in (0.0, 1.0):
        y = base - (PANEL - 14) * share
        lines.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        lines.append(f'<text class="small" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{most * share:g}</text>')
    return [*lines, f'<polyline points="{points}"/>']


def _x(at_s: float, last_s: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * min(at_s, last_s) / last_s


def _round_up(value: float) -> float:
    """To 1, 2, 5, 10, 20 and so on, above 0."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0) if step * power >= value)


def _minutes(last_s: float) -> list[int]:
    step = next((step for step in (1, 2, 5, 10, 30) if last_s / 60 / step <= 8), 60)
    return list(range(0, int(last_s // 60) + 1, step))
