"""Trains one adapter: `python -m gateway.training.child`, a child process of a gateway or of `gateway train`.

One line of JSON comes in by stdin; lines of JSON go out by stdout, each with `event`: `started`, `step`, `epoch`,
`done` or `failed`. It computes only when nobody else wants the processor, ends with its parent, and begins where its
last checkpoint was, if there is one. Imports torch: nothing else does.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from gateway.engines.child import Say, Unfit, die_with_parent, read_settings, take_stdout

CHECKPOINT_EVERY_S = 60.0


def main() -> NoReturn:
    die_with_parent()
    say = take_stdout()
    wanted = read_settings()
    give_way()
    limit_memory(wanted["settings"]["memory_mb"])
    try:
        run(wanted, say)
    except Unfit as exc:
        say({"event": "failed", "why": str(exc), "code": "unfit"})
        os._exit(1)
    except (MemoryError, SystemError):  # the latter is what C code says that got none
        say({"event": "failed", "why": "there is not enough memory", "code": "out_of_memory"})
        os._exit(1)
    except RuntimeError as exc:  # torch's own for memory is one
        traceback.print_exc()
        is_memory = "memory" in str(exc).lower()
        why = "there is not enough memory" if is_memory else "training failed: its log says why"
        say({"event": "failed", "why": why, "code": "out_of_memory" if is_memory else "failed"})
        os._exit(1)
    except OSError as exc:
        traceback.print_exc()
        say({"event": "failed", "why": f"a file cannot be read or written: {exc.strerror}", "code": "failed"})
        os._exit(1)
    except Exception:
        traceback.print_exc()
        say({"event": "failed", "why": "training failed: its log says why", "code": "failed"})
        os._exit(1)
    os._exit(0)


def give_way() -> None:
    """To all that serves: this computes with what is left over."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):
        os.nice(19)


def limit_memory(megabytes: int) -> None:
    if megabytes:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20))


def run(wanted: dict[str, Any], say: Say) -> None:
    """Raises: Unfit."""
    from gateway.training.pairs import read_pairs
    from gateway.training.settings import Settings

    settings, folder = Settings(**wanted["settings"]), Path(wanted["folder"])
    began = time.monotonic()
    try:
        from gateway.training import lora
    except ImportError as exc:
        if "memory" in str(exc).lower():
            raise MemoryError from None
        raise Unfit(
            f"training needs the extra 'train' (pip install 'onion-gateway[train]'): {exc.name} is missing"
        ) from None
    model = lora.load(Path(wanted["model_path"]), settings)
    pairs = read_pairs((folder / "pairs.jsonl").read_bytes())
    held_out = read_pairs((folder / "held_out.jsonl").read_bytes()) if (folder / "held_out.jsonl").exists() else []
    samples, too_long, unwritten = model.samples(pairs)
    tests, tests_too_long, tests_unwritten = model.samples(held_out)
    if not samples and unwritten:
        raise Unfit(unwritten[0])
    if not samples:
        raise Unfit(f"none of {len(pairs)} examples is short enough: at most {settings.max_tokens} tokens are learned")
    started = {
        "examples": len(samples),
        "held_out": len(tests),
        "too_long": too_long + tests_too_long,
        "unwritten": len(unwritten) + len(tests_unwritten),
        "tokens": sum(len(sample.ids) for sample in samples),
        "load_s": round(time.monotonic() - began, 1),
    }
    say({"event": "started", **started})
    report = lora.train(model, samples, tests, folder, say, CHECKPOINT_EVERY_S)
    size = model.write(folder / "adapter.gguf")
    model.write_peft(folder / "peft")
    say({"event": "done", **report, "size_bytes": size, "seconds": round(time.monotonic() - began, 1)})


if __name__ == "__main__":
    main()
    sys.exit(1)  # never reached: `main` ends the process
