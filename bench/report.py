"""Results as Markdown: tables, what they were measured on, and their place in a page."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.chart import Bar, chart
from bench.processes import BenchError
from bench.results import Figures, Rounds

OURS = "ours"
DIRECT = "direct"
CHART = "performance.svg"
PAGE = "performance.md"


@dataclass(frozen=True)
class Setting:
    """What the numbers depend on. `versions`: (title, version) by target's name."""

    date: str
    machine: str
    python: str
    titles: Mapping[str, str]
    versions: Mapping[str, str]

    @classmethod
    def of_this_machine(cls, titles: Mapping[str, str], versions: Mapping[str, str]) -> Setting:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        cpu = found[1] if found else platform.machine()
        machine = f"{cpu}, {os.cpu_count()} cores, Linux {platform.release()}"
        return cls(datetime.date.today().isoformat(), machine, platform.python_version(), titles, versions)

    def title(self, name: str) -> str:
        return self.titles.get(name, name)


def number(value: float | None, digits: int | None = None) -> str:
    """Three digits that count, unless told otherwise; thousands with commas."""
    if value is None:
        return "–"
    if digits is None:
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def times(value: float | None, of: float | None) -> str:
    return f"{number(value / of)} ×" if value and of else "–"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def by_speed(figures: Mapping[str, Figures]) -> list[str]:
    """Names of targets that could be measured: the upstream alone first, then the cheapest request first."""
    names = [name for name, of in figures.items() if of.failed is None]
    return sorted(names, key=lambda name: (name != DIRECT, figures[name].cpu_us or float("inf")))


def main_table(figures: Mapping[str, Figures], setting: Setting) -> str:
    head = ["", "best req/s", "req/s per core", "of LiteLLM", "of nginx", "CPU µs per request"]
    head += ["p50 / p99 ms, 1 connection", "TTFT p50 ms, 4 streams", "CPU µs per chunk", "MB per 1,000 streams"]
    head += ["start s", "idle MB"]
    peers = [figures[name].rps_per_core if name in figures else None for name in ("litellm", "nginx")]
    rows = []
    for name in by_speed(figures):
        of = figures[name]
        title = setting.title(name)
        rows.append(
            [
                f"**{title}**" if name == OURS else title,
                number(of.best_rps, 0),
                number(of.rps_per_core, 0),
                *(times(of.rps_per_core, peer) for peer in peers),
                number(of.cpu_us),
                _pair_ms(of, "json1", "latency_us"),
                number(_ms(of.percentile_us("calm", "ttft_us", "p50"))),
                number(of.chunk_cpu_us),
                number(of.mb_per_1000_streams),
                number(of.start_s),
                number(of.idle_mb, 0),
            ]
        )
    return table(head, rows)


def other_table(figures: Mapping[str, Figures], setting: Setting) -> str:
    """Scenarios that are not in the first table."""
    connections = sorted({c for of in figures.values() for c in of.connections})
    head = ["", *(f"req/s, {c} conn." for c in connections), "50 req/s: p50 / p99 ms", "100 kB prompts: req/s"]
    head += ["burst: chunks/s", "TTFT p50 / p99 ms, 64 streams", "chunk delay p50 / p99 µs, 64 streams"]
    rows = []
    for name in by_speed(figures):
        of = figures[name]
        delay = [of.percentile_us("paced", "chunk_delay_us", p) for p in ("p50", "p99")]
        rows.append(
            [
                setting.title(name),
                *(number(of.of_load(f"json{c}", lambda load: load.rps), 0) for c in connections),
                _pair_ms(of, "rate", "latency_us"),
                number(of.of_load("big", lambda load: load.rps), 0),
                number(of.of_load("burst", lambda load: load.chunks_per_s), 0),
                _pair_ms(of, "paced", "ttft_us"),
                " / ".join(number(value, 0) for value in delay),
            ]
        )
    return table(head, rows)


def notes(figures: Mapping[str, Figures], setting: Setting) -> list[str]:
    """What a reader of the tables has to know: cascades, errors, targets that could not be measured."""
    found = []
    for of in figures.values():
        if of.held_over_plain:
            ratios = ", ".join(f"{number(ratio)} × {pace}" for pace, ratio in of.held_over_plain.items())
            found.append(f"A cascade that holds a whole draft of 50 chunks, CPU over plain forwarding: {ratios}.")
    for name, of in figures.items():
        if of.failed is not None:
            found.append(f"{setting.title(name)} could not be measured: {of.failed[:200]}.")
        if of.errors:
            wrong = ", ".join(f"{count:,} in {scenario}" for scenario, count in of.errors.items())
            found.append(f"Wrong or missing answers of {setting.title(name)}: {wrong}.")
    return found


def summary(rounds: Rounds, setting: Setting, chart_file: str | None = CHART) -> str:
    """All that a run has to say, as Markdown."""
    figures = {name: Figures(of) for name, of in rounds.items()}
    count = max((len(of) for of in rounds.values()), default=0)
    stolen = max((of.stolen_share for of in figures.values()), default=0.0)
    versions = ", ".join(f"{setting.title(name)} {version}" for name, version in setting.versions.items() if version)
    medians = "one round" if count == 1 else f"medians of {count} rounds"
    about = f"Measured on {setting.date} with {setting.machine}; Python {setting.python}; {medians}."
    about += f" {versions}." if versions else ""
    if stolen >= 0.01:
        about += f" The hypervisor took up to {stolen:.0%} of the CPU time: trust the ratios more than the numbers."
    parts = [about, main_table(figures, setting), *notes(figures, setting), "The other scenarios of the same run:"]
    parts.append(other_table(figures, setting))
    if chart_file is not None:
        parts.insert(1, f"![Requests per second and core]({chart_file})")
    return "\n\n".join(parts)


def speed_chart(rounds: Rounds, setting: Setting) -> str | None:
    """None where nothing was measured that it could show."""
    bars = []
    for name, of in rounds.items():
        value = Figures(of).rps_per_core
        if value:
            bars.append(Bar(setting.title(name), value, is_ours=name == OURS))
    unit = f"one core, 64 connections, small JSON answers; logarithmic scale; {setting.date}"
    return chart(bars, "Requests per second and core", unit) if bars else None


def put_between_markers(page: str, name: str, text: str) -> str:
    """The page with `text` between `<!-- name:begin -->` and `<!-- name:end -->`. Raises: BenchError without them."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise BenchError(f"the page needs one {begin} and one {end}")
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"


PARTS = ("bench", "bench-engine", "bench-onion")


def write_page(folder: Path, name: str, text: str) -> Path:
    """Into `folder/performance.md`, which is begun where it is not there yet."""
    page = folder / PAGE
    if not page.exists():
        folder.mkdir(parents=True, exist_ok=True)
        page.write_text("".join(f"<!-- {each}:begin -->\n<!-- {each}:end -->\n" for each in PARTS))
    page.write_text(put_between_markers(page.read_text(), name, text))
    return page


def _ms(value_us: float | None) -> float | None:
    return value_us / 1000 if value_us is not None else None


def _pair_ms(of: Figures, scenario: str, what: str) -> str:
    return " / ".join(number(_ms(of.percentile_us(scenario, what, p))) for p in ("p50", "p99"))
