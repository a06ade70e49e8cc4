"""Stands in for the child that trains, by its protocol: what it does is said by the first example's system prompt.

`adapter: PATH` copies that file and is done; `slow` waits for its end; `fails CODE` says so; `dies` ends so.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path


def main() -> None:
    settings = json.loads(sys.stdin.readline())
    folder = Path(settings["folder"])
    lines = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    held_out = (folder / "held_out.jsonl").read_text().splitlines()
    kind, _, what = lines[0]["messages"][0]["content"].partition(" ")
    say(event="started", examples=len(lines), held_out=len(held_out), too_long=0, tokens=100, load_s=0.1)
    if kind == "dies":
        print("out of luck", file=sys.stderr, flush=True)
        os._exit(3)
    if kind == "fails":
        say(event="failed", why="it cannot be", code=what)
        os._exit(1)
    steps = 1 + (folder / "checkpoint.pt").exists()
    say(event="step", step=steps, steps=9, epoch=1, loss=1.5, tokens_per_s=100.0, left_s=3)
    (folder / "checkpoint.pt").touch()
    while kind == "slow" and steps == 1:
        time.sleep(0.02)
    say(event="epoch", epoch=1, step=9, held_out_loss=0.25)
    if kind == "adapter":
        shutil.copy(what, folder / "adapter.gguf")
    else:
        (folder / "adapter.gguf").write_bytes(b"GGUF")
    say(
        event="done", steps=9, epochs=1.0, held_out_loss_before=2.0, held_out_loss=0.25, seconds=0.1, trained_tokens=100
    )


def say(**event: object) -> None:
    print(json.dumps(event), flush=True)


main()
