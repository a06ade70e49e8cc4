"""The load bench works, in small: what it compiles, drives, reads, writes and draws."""

from __future__ import annotations

import json
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.__main__ import main
from bench.chart import Bar, Scale, chart
from bench.engine import Pair, tokens_in
from bench.engine import summary as engine_summary
from bench.measure import measure
from bench.ours import write_config
from bench.processes import BenchError, Cores, free_port
from bench.profile import self_time
from bench.report import CHART, PAGE, Setting, put_between_markers, speed_chart, summary, write_page
from bench.results import Figures, Load, Round, read_rounds, write_rounds
from bench.rig import Rig
from bench.scenarios import Plan, Scenario
from bench.targets import HERE, Running, Site, Target, filled, known_targets
from gateway import cli
from tests.conftest import ROOT

needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the bench needs Linux")
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler called cc")
SETTING = Setting("2026-01-02", "a machine", "3.11.0", {"ours": "Onion Gateway", "direct": "upstream alone"}, {})
SVG = "{http://www.w3.org/2000/svg}"


def a_load(rps: float, cpu_us: float | None, **more: object) -> Load:
    spread = {"n": 10, "p50": 150.0, "p99": 900.0}
    fields = {"conns": 64, "ok": 100, "errors": 0, "last_status": 0, "rps": rps, "latency_us": spread}
    return Load.model_validate(fields | {"cpu_us_per_request": cpu_us} | more)


def a_round(rps: float, cpu_us: float | None) -> Round:
    spread = {"n": 4, "p50": 300.0, "p99": 700.0}
    streams = a_load(1, None, chunks_per_s=500.0, ttft_us=spread, chunk_delay_us=spread, cpu_us_per_chunk=40.0)
    loads = {"json1": a_load(rps / 2, cpu_us), "json64": a_load(rps, cpu_us), "calm": streams, "paced": streams}
    loads["hold"] = a_load(0, None, conns=1000, peak_mb=70.0)
    return Round(start_s=0.5, idle_mb=40, loaded_mb=50, loads=loads)


def canned() -> dict[str, list[Round]]:
    ours = [a_round(rps, 1e6 / rps) for rps in (18_000, 20_000, 90_000)]
    ours[0] = ours[0].model_copy(update={"held_over_plain": {"paced": 1.2}})
    return {
        "direct": [a_round(80_000, None)],
        "nginx": [a_round(40_000, 25)],
        "litellm": [a_round(100, 10_000)],
        "ours": ours,
        "broken": [Round(failed="it has ended: no such file")],
    }


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rig, Site]]:
    try:
        cores = Cores.of_this_machine()
    except BenchError as exc:
        pytest.skip(str(exc))
    folder = tmp_path_factory.mktemp("bench")
    with Rig(folder, cores) as rig:
        yield rig, Site(rig.port, folder, folder, cores)


@needs_linux
@needs_cc
def test_the_driver_and_the_mock_agree_on_answers(rig: tuple[Rig, Site]) -> None:
    load = rig[0].load(Running(rig[0].port), Scenario("json4", 4, 0.2, warm_s=0.05))
    assert load.ok > 100
    assert (load.errors, load.last_status) == (0, 0)
    assert 0 < load.latency_us.p50 <= load.latency_us.p99
    assert load.cpu_us_per_request is None


@needs_linux
@needs_cc
def test_the_driver_and_the_mock_agree_on_streams(rig: tuple[Rig, Site]) -> None:
    paced = Scenario("paced", 4, 0.3, warm_s=0.05, chunks=10, delay_us=5000, ramp_s=0.05)
    load = rig[0].load(Running(rig[0].port), paced)
    assert load.ok >= 4
    assert load.errors == 0
    assert load.ttft_us is not None and load.ttft_us.n > 0
    assert load.chunks_per_s is not None and 200 < load.chunks_per_s < 1000  # 4 streams, 200 chunks/s each at most


@needs_linux
@needs_cc
def test_answers_that_are_not_right_count_as_errors(rig: tuple[Rig, Site]) -> None:
    load = rig[0].load(Running(rig[0].port, path="/nowhere"), Scenario("json2", 2, 0.1, warm_s=0.02))
    assert load.ok == 0
    assert load.errors > 0
    assert load.is_broken


@needs_linux
@needs_cc
def test_a_target_is_started_measured_and_stopped(rig: tuple[Rig, Site]) -> None:
    """Another mock, as a target: it answers, though it forwards nothing."""
    target = Target(title="another mock", command=f"{rig[1].folder}/mock_upstream -p {{port}}")
    plan = Plan(seconds=0.2, warm_s=0.1, lead_s=0.05, names=["json16"])
    found = measure("another", target, *rig, plan)
    assert found.failed is None
    assert found.start_s is not None and found.idle_mb is not None
    assert found.loads.keys() == {"json16"}
    assert free_port(9200) in range(9200, 9300)


@needs_linux
@needs_cc
def test_a_target_that_does_not_start_is_a_failed_round(rig: tuple[Rig, Site]) -> None:
    target = Target(title="none", command="sh -c 'echo it is out of order; exit 3'")
    found = measure("none", target, *rig, Plan())
    assert found.failed == "it has ended: it is out of order"


@pytest.mark.parametrize("models", ["mock", "engine"])
def test_gateway_check_takes_the_configuration_of_the_bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: str
) -> None:
    monkeypatch.setenv("GATEWAY_HOME", str(tmp_path / "home"))
    write_config(tmp_path, models, "http://127.0.0.1:9100", ("bench", "held") if models == "mock" else ("bench",))
    where = ["--models", str(tmp_path / "models.yaml"), "--policies", str(tmp_path / "policies")]
    said = json.loads(CliRunner().invoke(cli.app, ["check", "--json", *where]).stdout)
    assert said == {"ok": True, "warnings": [], "inactive": {}}


def test_the_engine_of_the_bench_is_the_core_model() -> None:
    def source(file: Path) -> list[str]:
        return re.findall(r"^ +(?:source|sha256|context|slots): .*$", file.read_text(), re.MULTILINE)

    ours = {" ".join(line.split(" #")[0].split()) for line in source(HERE / "ours" / "engine.yaml")}
    core = {" ".join(line.split(" #")[0].split()) for line in source(ROOT / "models.yaml")}
    assert ours == core


def test_every_target_has_its_files_and_a_way_to_install_it(tmp_path: Path) -> None:
    for name, target in known_targets().items():
        assert [file for file in target.files if not (HERE / file).exists()] == []
        assert bool(target.pip) + bool(target.npm) + bool(target.apt) == 1, name
        assert target.how_to_install(name) in (f"bench/setup {name}", f"apt-get install {target.apt}")
        assert target.apt or not target.is_installed(tmp_path)


def test_only_names_that_are_known_are_filled_in() -> None:
    assert filled("{up}/v1 { x {dir} {other}", {"up": "http://h", "dir": "/d"}) == "http://h/v1 { x /d {other}"


def test_an_unknown_target_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", "--only", "nginks"]) == 1
    assert "no target is called 'nginks'; there are: direct, nginx," in capsys.readouterr().err


def test_medians_are_taken_over_the_rounds() -> None:
    figures = Figures(canned()["ours"])
    assert figures.best_rps == 20_000
    assert figures.cpu_us == 50
    assert figures.rps_per_core == 20_000
    assert figures.mb_per_1000_streams == 20
    assert figures.held_over_plain == {"paced": 1.2}


def test_what_a_target_answers_wrongly_is_no_figure_of_its_speed() -> None:
    wrong = a_load(50, 20, ok=1, errors=99)
    figures = Figures([Round(loads={"json64": wrong})])
    assert figures.cpu_us is None
    assert figures.errors == {"json64": 99}


def test_results_are_kept_and_put_together(tmp_path: Path) -> None:
    write_rounds(canned(), tmp_path / "a.json")
    write_rounds({"ours": [a_round(1, 1)]}, tmp_path / "b.json")
    merged = read_rounds([tmp_path / "a.json", tmp_path / "b.json"])
    assert {name: len(rounds) for name, rounds in merged.items()} == {
        "direct": 1,
        "nginx": 1,
        "litellm": 1,
        "ours": 4,
        "broken": 1,
    }
    assert merged["nginx"] == canned()["nginx"]


def test_the_table_has_every_target_and_ratios_of_the_same_run() -> None:
    text = summary(canned(), SETTING)
    lines = text.splitlines()
    ours = next(line for line in lines if line.startswith("| **Onion Gateway**"))
    assert ours.split(" | ")[1:6] == ["20,000", "20,000", "200 ×", "0.50 ×", "50.0"]
    assert lines[0] == "Measured on 2026-01-02 with a machine; Python 3.11.0; medians of 3 rounds."
    assert "CPU over plain forwarding: 1.20 × paced." in text
    assert "broken could not be measured: it has ended: no such file." in text
    table = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in table[: 2 + 4]} == {13}


def test_the_chart_is_xml_and_shows_every_target() -> None:
    drawn = speed_chart(canned(), SETTING)
    assert drawn is not None
    root = ElementTree.fromstring(drawn)
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert [label for label in texts if label in ("Onion Gateway", "nginx", "litellm")] == [
        "nginx",
        "Onion Gateway",
        "litellm",
    ]
    assert {"40,000", "20,000", "100"} <= set(texts)
    assert "prefers-color-scheme: dark" in drawn


def test_nothing_of_the_chart_overlaps_or_leaves_it() -> None:
    bars = [Bar("a < b & c", 0.5), Bar("the longest label here", 123_456.0, is_ours=True), Bar("x", 99_999)]
    root = ElementTree.fromstring(chart(bars, "title", "unit"))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    rects = list(root.iter(f"{SVG}rect"))
    tops = [float(rect.attrib["y"]) for rect in rects]
    assert all(after - before >= 18 + 8 for before, after in zip(tops, tops[1:], strict=False))
    for text in root.iter(f"{SVG}text"):
        length = 8 * len(text.text or "")
        anchor, x = text.attrib.get("text-anchor", "start"), float(text.attrib["x"])
        left = x - {"start": 0, "middle": length / 2, "end": length}[anchor]
        assert 0 <= left and left + length <= width and float(text.attrib["y"]) < height, text.text
    assert all(float(rect.attrib["width"]) > 0 for rect in rects)


def test_the_scale_holds_all_values() -> None:
    one, several = Scale.of([Bar("a", 100.0)]), Scale.of([Bar("a", 114.0), Bar("b", 58_000.0)])
    assert (one.low, one.high) == (1, 2)
    assert (several.low, several.high) == (2, 5)


def test_what_stands_between_the_markers_is_replaced_and_nothing_else() -> None:
    page = "# Title\n\n<!-- bench:begin -->\nold\n<!-- bench:end -->\n\nprose\n"
    once = put_between_markers(page, "bench", "new")
    assert once == "# Title\n\n<!-- bench:begin -->\n\nnew\n\n<!-- bench:end -->\n\nprose\n"
    assert put_between_markers(once, "bench", "new") == once
    with pytest.raises(BenchError):
        put_between_markers("no markers", "bench", "new")


def test_the_page_of_the_docs_has_its_markers(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / PAGE, tmp_path)
    for name in ("bench", "bench-engine"):
        write_page(tmp_path, name, f"results of {name}")
    written = (tmp_path / PAGE).read_text()
    assert "results of bench\n" in written and "results of bench-engine\n" in written


def test_tables_are_shown_again_without_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rounds(canned(), tmp_path / "a.json")
    assert main(["load", "--show", str(tmp_path / "a.json"), "--out", str(tmp_path)]) == 0
    assert "| **Onion Gateway** |" in capsys.readouterr().out
    ElementTree.parse(tmp_path / CHART)
    assert f"]({CHART})" in (tmp_path / PAGE).read_text()


def test_tokens_are_read_from_the_usage_of_a_whole_stream() -> None:
    usage = json.dumps({"choices": [], "usage": {"completion_tokens": 64}})
    assert tokens_in(f'data: {{"choices": []}}\n\ndata: {usage}\n\ndata: [DONE]\n\n') == 64
    with pytest.raises(BenchError):
        tokens_in(f"data: {usage}\n\n")


def test_the_engine_table_has_the_median_of_the_ratios() -> None:
    text = engine_summary({1: [Pair(100, 99), Pair(50, 40), Pair(100, 98)]}, SETTING)
    assert "| 1 | 128 | 100.0 | 98.0 | **98.0%** (80.0% to 99.0%) |" in text


def test_samples_are_counted_where_the_time_is_spent() -> None:
    stacks = "main (a.py:1);work (b.py:7) 30\nmain (a.py:1);work (b.py:9) 50\nmain (a.py:2) 20\n"
    stacks += "run (threading.py:5);_worker (concurrent/futures/thread.py:81) 900\n"  # waits for work
    lines = self_time(stacks).splitlines()
    assert lines[1].split(maxsplit=2) == ["80.0", "80.0", "work (b.py)"]
    assert lines[2].split(maxsplit=2) == ["20.0", "100.0", "main (a.py)"]
