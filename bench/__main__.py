"""`python -m bench load | engine | onion | shards | signals | promise | profile | loop | lqs | soak | kills | workers |
setup`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench import engine, kills, onion, profile, promise, shards, signals, workers
from bench.install import install, version_of
from bench.loop import story as loop
from bench.lqs import steps as lqs
from bench.measure import rounds_of, wait_for_quiet
from bench.ours import our_target
from bench.processes import BenchError, Cores
from bench.report import CHART, DIRECT, OURS, Setting, put_between_markers, speed_chart, summary, write_page
from bench.results import Round, Rounds, read_rounds, write_rounds
from bench.rig import Rig
from bench.scenarios import Plan
from bench.soak import run as soak
from bench.targets import ROOT, Site, Target, known_targets, tools_folder

QUICK = ("direct", "nginx", "ours")


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    try:
        options.run(options)
    except BenchError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="bench", description="How fast the gateway is, beside its peers.")
    verbs = whole.add_subparsers(required=True, metavar="VERB")
    load = verbs.add_parser("load", help="measure all targets; table and chart")
    load.add_argument("--only", type=words, default=[], metavar="NAMES", help="comma-separated targets")
    load.add_argument("--skip", type=words, default=[], metavar="NAMES", help="targets to leave out")
    load.add_argument("--rounds", type=int, default=3)
    load.add_argument("--secs", type=float, default=2.0, help="of each scenario")
    load.add_argument("--scenarios", type=words, default=[], metavar="NAMES", help="json64, paced, cascade and so on")
    load.add_argument("--hold", type=int, default=1000, help="open streams to hold, 0 for none")
    load.add_argument("--quick", action="store_true", help="does it work? Under 30 s, and no numbers to trust")
    load.add_argument("--max-load", type=float, default=0, help="wait until the machine's load is below")
    load.add_argument("--json", type=Path, help="keep the results there")
    load.add_argument("--show", type=Path, nargs="+", metavar="FILE", help="the tables of such files; measure nothing")
    load.add_argument("--out", type=Path, help="folder of page and chart: docs for a whole run, else .bench")
    load.set_defaults(run=run_load)
    share = verbs.add_parser("lqs", help="what the core model answers of a workload, at a certified quality")
    lqs.add_arguments(share)
    share.set_defaults(run=lambda options: lqs.run(options, say))
    told = verbs.add_parser("loop", help="the learning loop on one example, from nothing to an adapter that answers")
    loop.add_arguments(told)
    told.set_defaults(run=lambda options: loop.run(options, say))
    behind = verbs.add_parser("engine", help="the core model behind the gateway, and by itself")
    behind.add_argument("--rounds", type=int, default=8)
    behind.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the page")
    behind.set_defaults(run=run_engine)
    layers = verbs.add_parser("onion", help="loading, swapping and restoring the core model")
    layers.add_argument("--rounds", type=int, default=8)
    layers.add_argument("--llama-server", metavar="PROGRAM", help="llama.cpp's own, to measure beside: else on PATH")
    layers.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the page")
    layers.set_defaults(run=run_onion)
    found = verbs.add_parser("shards", help="finding shards among many, and how much memory that takes")
    found.add_argument(
        "--sizes", type=words, default=["10000", "1000000"], metavar="NUMBERS", help="shards in the store"
    )
    found.add_argument("--queries", type=int, default=300)
    found.set_defaults(run=run_shards)
    decided = verbs.add_parser("signals", help="what a decision costs, for rules of each kind")
    decided.add_argument("--requests", type=int, default=1000, help="of each kind")
    decided.set_defaults(run=run_signals)
    promised = verbs.add_parser("promise", help="does a certified threshold keep what it promises? By simulation")
    promised.add_argument("--streams", type=int, default=500, help="of each kind")
    promised.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    promised.set_defaults(run=run_promise)
    profiled = verbs.add_parser("profile", help="where the gateway spends its time under load")
    profiled.add_argument("--secs", type=float, default=4.0, help="of each of the two loads")
    profiled.set_defaults(run=run_profile)
    soaked = verbs.add_parser("soak", help="everything at once for half an hour: what is kept, lost and left behind")
    soak.add_arguments(soaked)
    soaked.set_defaults(run=lambda options: soak.run(options, say))
    killed = verbs.add_parser("kills", help="kill -9 under load: what clients see, and what is lost")
    kills.add_arguments(killed)
    killed.set_defaults(run=lambda options: kills.run(options, say))
    several = verbs.add_parser("workers", help="two workers beside one: requests, open streams, memory")
    several.add_argument("--rounds", type=int, default=4)
    several.add_argument("--streams", type=int, default=2000, help="to hold open")
    several.add_argument("--out", type=Path, help="the page to write to; else the table is only printed")
    several.set_defaults(run=run_workers)
    peers = verbs.add_parser("setup", help="install peers")
    peers.add_argument("names", nargs="*", metavar="NAME")
    peers.set_defaults(run=run_setup)
    return whole


def words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def run_load(options: argparse.Namespace) -> None:
    known, tools = known_targets(), tools_folder()
    is_whole = not (options.only or options.skip or options.scenarios or options.quick)
    out = options.out or (ROOT / "docs" if is_whole else tools)
    if options.show:
        publish(read_rounds(options.show), known, out)
        return
    names = wanted(options, known)
    plan = plan_of(options)
    rounds: dict[str, list[Round]] = {}
    with workplace() as (rig, site):
        targets = {name: target_of(name, known, site) for name in names if is_here(name, known, tools)}
        if options.max_load:
            wait_for_quiet(options.max_load, say)
        count = 1 if options.quick else options.rounds
        for name, measured in rounds_of(targets, rig, site, plan, count, say):
            rounds.setdefault(name, []).append(measured)
            if options.json:
                write_rounds(rounds, options.json)
    publish(rounds, known, out)


def wanted(options: argparse.Namespace, known: dict[str, Target]) -> list[str]:
    """Raises: BenchError for a name that is none."""
    every = [DIRECT, *known, OURS]
    for name in (*options.only, *options.skip):
        if name not in every:
            raise BenchError(f"no target is called '{name}'; there are: {', '.join(every)}")
    names = options.only or (QUICK if options.quick else every)
    return [name for name in every if name in names and name not in options.skip]


def plan_of(options: argparse.Namespace) -> Plan:
    if options.quick:
        return Plan(seconds=0.3, warm_s=0.2, lead_s=0.15, held=0, connections=(1, 64), names=options.scenarios)
    return Plan(seconds=options.secs, held=options.hold, names=options.scenarios)


def is_here(name: str, known: dict[str, Target], tools: Path) -> bool:
    """A base peer is installed where it is missing; of others is said how to."""
    target = known.get(name)
    if target is None or target.is_installed(tools):
        return True
    if not target.base:
        say(f"{name} is not installed, and left out: {target.how_to_install(name)}")
        return False
    say(f"installing {name} into {tools / name} (once)")
    install(name, target, tools)
    return True


def target_of(name: str, known: dict[str, Target], site: Site) -> Target | None:
    if name == DIRECT:
        return None
    return our_target(site.folder / OURS, site.upstream_port) if name == OURS else known[name]


@contextmanager
def workplace() -> Iterator[tuple[Rig, Site]]:
    """The mock upstream, running, and a folder that goes at the end."""
    cores = Cores.of_this_machine()
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder, Rig(Path(folder), cores) as rig:
        yield rig, Site(rig.port, Path(folder), tools_folder(), cores)


def publish(rounds: Rounds, known: dict[str, Target], out: Path) -> None:
    tools = tools_folder()
    titles = {DIRECT: "upstream alone", OURS: "Onion Gateway"} | {name: known[name].title for name in known}
    versions = {name: version_of(name, known[name], tools) for name in rounds if name in known}
    setting = Setting.of_this_machine(titles, versions)
    drawn = speed_chart(rounds, setting)
    text = summary(rounds, setting, CHART if drawn else None)
    page = write_page(out, "bench", text)
    if drawn:
        (out / CHART).write_text(drawn)
    print(text)
    say(f"written: {page}" + (f" and {out / CHART}" if drawn else ""))


def run_workers(options: argparse.Namespace) -> None:
    with workplace() as (rig, site):
        found = workers.measure(rig, site, options.rounds, options.streams, say)
    text = workers.summary(found, options.streams)
    print(text)
    if options.out is not None:
        options.out.write_text(put_between_markers(options.out.read_text(), "workers", text))


def run_engine(options: argparse.Namespace) -> None:
    cores, tools = Cores.of_this_machine(), tools_folder()
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        pairs = engine.measure(Path(folder), tools, cores, options.rounds, say)
    text = engine.summary(pairs, Setting.of_this_machine({}, {}))
    print(text)
    say(f"written: {write_page(options.out, 'bench-engine', text)}")


def run_onion(options: argparse.Namespace) -> None:
    program = onion.find_llama_server(options.llama_server)
    if program is None:
        say("there is no llama-server on PATH, and its router mode is left out: name one with --llama-server")
    cores, tools = Cores.of_this_machine(), tools_folder()
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        samples = onion.measure(onion.core_model(tools), Path(folder), cores, options.rounds, program, say)
    text = onion.summary(samples, Setting.of_this_machine({}, {}), options.rounds)
    print(text)
    say(f"written: {write_page(options.out, 'bench-onion', text)}")


def run_shards(options: argparse.Namespace) -> None:
    if not all(size.isdecimal() and int(size) for size in options.sizes) or options.queries < 2:
        raise BenchError("--sizes are positive numbers, as in 10000,1000000, and --queries is at least 2")
    print(shards.summary(shards.measure([int(size) for size in options.sizes], options.queries, say)))


def run_signals(options: argparse.Namespace) -> None:
    if options.requests < 100:
        raise BenchError("--requests is at least 100")
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        print(signals.summary(signals.measure(Path(folder), tools_folder(), options.requests, say)))


def run_promise(options: argparse.Namespace) -> None:
    if options.streams < 1 or options.jobs < 1:
        raise BenchError("--streams and --jobs are at least 1")
    for line in promise.measure(options.streams, options.jobs, say):
        print(line, flush=True)


def run_profile(options: argparse.Namespace) -> None:
    with workplace() as (rig, site):
        target = our_target(site.folder / OURS, site.upstream_port)
        print(profile.profile(target, rig, site, options.secs, say))


def run_setup(options: argparse.Namespace) -> None:
    known, tools = known_targets(), tools_folder()
    for name in options.names:
        if name not in known:
            raise BenchError(f"no peer is called '{name}'; there are: {', '.join(known)}")
        install(name, known[name], tools)
        print(f"{name} {version_of(name, known[name], tools)}")
    if not options.names:
        for name, target in known.items():
            print(f"{name}: {'installed' if target.is_installed(tools) else target.how_to_install(name)}")


if __name__ == "__main__":
    sys.exit(main())
