"""A bar chart as SVG text: requests per second and core, on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 760
LETTER = 8.5  # a generous width for one
VALUES = 90  # and of numbers, right of the longest
TOP = 58
ROW = 30
BAR = 18
FOOT = 34
STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
  .title { font-size: 16px; font-weight: 600; }
  .small { font-size: 11px; fill: #59636e; }
  .ours { font-weight: 600; }
  .grid { stroke: #d1d9e0; }
  rect { fill: #8c959f; }
  rect.ours { fill: #0969da; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .small { fill: #9198a1; }
    .grid { stroke: #3d444d; }
    rect { fill: #656c76; }
    rect.ours { fill: #4493f8; }
  }
"""


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    is_ours: bool = False


@dataclass(frozen=True)
class Scale:
    """From a power of ten below the smallest value to one above the largest."""

    low: int
    high: int
    left: float  # where bars begin

    @classmethod
    def of(cls, bars: Sequence[Bar]) -> Scale:
        values = [bar.value for bar in bars]
        low = math.floor(math.log10(min(values)) - 1e-9)
        left = 24 + LETTER * max(len(bar.label) for bar in bars)
        return cls(low, max(low + 1, math.ceil(math.log10(max(values)))), left)

    def x(self, value: float) -> float:
        """Distance from the left edge of the chart, in its units."""
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.left + share * (WIDTH - self.left - VALUES)


def chart(bars: Sequence[Bar], title: str, unit: str) -> str:
    """The longest bar first.

    Args:
        bars: at least one, of values above 0.
        unit: what the numbers are, for the line under the title.
    """
    ordered = sorted(bars, key=lambda bar: -bar.value)
    scale = Scale.of(ordered)
    height = TOP + ROW * len(ordered) + FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<text class="title" x="12" y="24">{escape(title)}</text>',
        f'<text class="small" x="12" y="42">{escape(unit)}</text>',
        *_grid(scale, height),
    ]
    for number, bar in enumerate(ordered):
        parts += _row(bar, scale, TOP + ROW * number + ROW / 2)
    return "\n".join([*parts, "</svg>", ""])


def _grid(scale: Scale, height: int) -> list[str]:
    lines = []
    for power in range(scale.low, scale.high + 1):
        x, bottom = scale.x(10.0**power), height - FOOT
        lines.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        text = f"{10.0**power:,.{max(0, -power)}f}"
        lines.append(f'<text class="small" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{text}</text>')
    return lines


def _row(bar: Bar, scale: Scale, middle: float) -> list[str]:
    ours = "ours" if bar.is_ours else ""
    end, baseline = scale.x(bar.value), middle + 4.5
    value = f"{bar.value:,.0f}" if bar.value >= 10 else f"{bar.value:.2g}"
    return [
        f'<text class="{ours}" x="{scale.left - 10}" y="{baseline}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect class="{ours}" x="{scale.left}" y="{middle - BAR / 2}" width="{end - scale.left:.1f}" height="{BAR}"'
        ' rx="3"/>',
        f'<text class="{ours}" x="{end + 8:.1f}" y="{baseline}">{value}</text>',
    ]
