"""`python -m fuzz [NAME …] --seconds N`: run targets with atheris, one after the other, each in a process of its own.

`--keep` puts what they found new into `corpus/`, minimised; what they broke lies in `fuzz-failures/NAME-…`, and
`python -m fuzz NAME --replay FILE` runs one of those again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from fuzz.mutate import mutator

HERE = Path(__file__).parent
FAILURES = HERE.parent / "fuzz-failures"
WORK = HERE.parent / ".fuzz"  # all that was ever reached; the corpus keeps some of it
MAX_BYTES = 2048  # of an input
MOST_KEPT = 60  # of a target
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
    """The smallest inputs that reach all that any has reached; of those the smallest, if they are many."""
    kept = HERE / "corpus" / name
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        if run(name, "-set_cover_merge=1", f"-max_len={MAX_BYTES}", folder, str(kept), str(WORK / name)):
            raise SystemExit(f"the corpus of {name} cannot be minimised: one of its inputs breaks it")
        found = sorted(Path(folder).iterdir(), key=lambda one: (one.stat().st_size, one.name))[:MOST_KEPT]
        for old in kept.iterdir():
            if not old.name.startswith("seed"):
                old.unlink()
        for one in found:
            shutil.copyfile(one, kept / one.name[:16])


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
