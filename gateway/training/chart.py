"""Shares over time as an SVG picture."""

from __future__ import annotations

import time
from collections.abc import Iterator
from xml.sax.saxutils import escape

from gateway.training.progress import Mark, Progress, Series

WIDTH, HEIGHT = 960, 360
LEFT, RIGHT, TOP, FOOT = 56, 24, 70, 40
TICKS = 6
CLASSES = ("local", "right", "before")
DAY_S = 86_400
STYLE = """
  text { font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
  .title { font-size: 16px; font-weight: 600; }
  .small { font-size: 11px; fill: #59636e; }
  .page { fill: #ffffff; }
  .grid { stroke: #d1d9e0; }
  .line { fill: none; stroke-width: 2; }
  .local { stroke: #0969da; } .right { stroke: #1a7f37; } .before { stroke: #9a6700; stroke-dasharray: 5 4; }
  circle.local { fill: #0969da; } circle.right { fill: #1a7f37; } circle.before { fill: #9a6700; }
  .mark { stroke: #8250df; stroke-dasharray: 2 3; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; } .small { fill: #9198a1; } .page { fill: #0d1117; } .grid { stroke: #3d444d; }
  }
"""


def svg(found: Progress) -> str:
    """Each point says how many requests it stands for when it is pointed at, each mark what happened."""
    return "\n".join([*_parts(found), ""])


def _parts(found: Progress) -> Iterator[str]:
    moments = [point.at for series in found.all for point in series.points] + [mark.at for mark in found.marks]
    begin, end = min(moments, default=0.0), max(moments, default=1.0)

    def x(at: float) -> float:
        return LEFT + (at - begin) / (end - begin or 1.0) * (WIDTH - LEFT - RIGHT)

    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        ' role="img">'
    )
    title = "What stays here, and what of it is right"
    yield f"<title>{title}</title>"
    yield f"<style>{STYLE}</style>"
    yield f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>'
    yield f'<text class="title" x="12" y="24">{title}</text>'
    yield from _axes(begin, end)
    for mark in found.marks:
        yield _mark(mark, x(mark.at))
    at = 12.0
    for name, series in zip(CLASSES, (found.local, found.right, found.before), strict=True):
        if not series.points:
            continue
        yield f'<line class="line {name}" x1="{at}" y1="46" x2="{at + 18}" y2="46"/>'
        yield f'<text class="small" x="{at + 24}" y="50">{escape(series.name)}</text>'
        at += 44 + 6.4 * len(series.name)
        places = [(x(point.at), _y(point.share)) for point in series.points]
        yield f'<polyline class="line {name}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in places)}"/>'
        yield from _points(series, name, places)
    yield "</svg>"


def _y(share: float) -> float:
    return TOP + (HEIGHT - TOP - FOOT) * (1 - share)


def _axes(begin: float, end: float) -> Iterator[str]:
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(share)
        yield f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>'
        yield f'<text class="small" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share:.0%}</text>'
    form = "%m-%d" if end - begin > 2 * DAY_S else "%H:%M"
    for number in range(TICKS + 1):
        at = begin + (end - begin) * number / TICKS
        x = LEFT + (WIDTH - LEFT - RIGHT) * number / TICKS
        label = time.strftime(form, time.gmtime(at))
        yield f'<text class="small" x="{x:.1f}" y="{HEIGHT - FOOT + 20}" text-anchor="middle">{label}</text>'


def _points(series: Series, name: str, places: list[tuple[float, float]]) -> Iterator[str]:
    for point, (x, y) in zip(series.points, places, strict=True):
        told = f"{series.name}: {point.share:.0%} of {point.count}"
        yield f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(told)}</title></circle>'


def _mark(mark: Mark, x: float) -> str:
    said = escape(mark.said)
    line = f'<line class="mark" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - FOOT}"/>'
    return f"<g>{line}<title>{said}</title></g>"
