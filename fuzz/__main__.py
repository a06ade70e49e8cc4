"""`python -m fuzz [NAME …] --seconds N`: run targets with atheris, one after the other, each in a process of its own.

`--keep` puts what they found new into `corpus/`, as little as reaches it; what they broke lies in `fuzz-failures/`, and
`python -m fuzz NAME --replay FILE` runs one of those again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz.mutate import mutator

HERE = Path(__file__).parent
FAILURES = HERE.parent / "fuzz-failures"
WORK = HERE.parent / ".fuzz"  # all that was ever reached; the corpus keeps some of it
MAX_BYTES = 2048  # of an input
MOST_KEPT = 60  # of a target
Step = tuple[str, int, int]  # file, from line, to line
JSON_AFTER = {"request": 1, "reply": 1, "refusal": 1, "shard": 0}  # bytes before it


def fuzz_one(name: str, arguments: list[str]) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["gateway"]):
        from fuzz.targets import Targets

    bends = {"custom_mutator": mutator(JSON_AFTER[name])} if name in JSON_AFTER else {}
    atheris.Setup([sys.argv[0], *arguments], Targets().all[name], **bends)
    atheris.Fuzz()


def run(name: str, *arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "fuzz", "--one", name, "--", *arguments], cwd=HERE.parent).returncode


def explore(name: str, seconds: int) -> int:
    for folder in (WORK / name, FAILURES):
        folder.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", "-timeout=20", "-rss_limit_mb=3000"]
    found = [f"-artifact_prefix={FAILURES}/{name}-", "-print_final_stats=1"]
    words = [f"-dict={HERE / 'words.dict'}"]
    return run(name, *limits, *found, *words, str(WORK / name), str(HERE / "corpus" / name))


def keep(name: str) -> None:
    """Of all that was found, smallest first, what reaches a step of ours that none before it has reached."""
    from fuzz.targets import Targets

    kept = HERE / "corpus" / name
    found = sorted((one for one in (WORK / name).iterdir()), key=lambda one: (one.stat().st_size, one.name))
    targets = Targets()
    target, reached = targets.all[name], set[Step]()
    for one in (*sorted(kept.iterdir()), *found):
        steps = steps_of(target, one.read_bytes())
        if steps <= reached or len(list(kept.iterdir())) >= MOST_KEPT:
            continue
        reached |= steps
        if one.parent != kept:
            shutil.copyfile(one, kept / one.name[:16])
    targets.close()


def steps_of(target: Callable[[bytes], None], data: bytes) -> set[Step]:
    """From which line to which the gateway's code goes."""
    steps: set[Step] = set()
    ours = str(HERE.parent / "gateway")

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(ours):
            return None
        before = frame.f_lineno

        def line(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal before
            steps.add((frame.f_code.co_filename, before, frame.f_lineno))
            before = frame.f_lineno
            return line

        return line

    sys.settrace(trace)
    try:
        target(data)
    finally:
        sys.settrace(None)
    return steps


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--keep", action="store_true", help="put what was found new into the corpus")
    parser.add_argument("--replay", type=Path, help="run one input")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    said, rest = parser.parse_known_args()
    if said.one:
        fuzz_one(said.one, [one for one in rest + said.names if one != "--"])
    from fuzz.targets import Targets

    known = Targets().all
    for name in said.names or known:
        if name not in known:
            parser.error(f"no target is called '{name}'; there are: {', '.join(known)}")
    if said.replay:
        known[said.names[0]](said.replay.read_bytes())
        return 0
    broken = [name for name in said.names or known if explore(name, said.seconds)]
    for name in said.names or known:
        if said.keep and name not in broken:
            keep(name)
    print(f"broken: {', '.join(broken)}" if broken else "nothing broke")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
