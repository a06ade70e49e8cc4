"""Speaks the protocol of an engine's child: settings on stdin, a ready line on stdout, gone when stdin closes."""

import json
import os
import signal
import sys
import time

settings = json.loads(sys.stdin.readline())
play = settings["play"]
ready = json.dumps({"ready": {"url": f"http://127.0.0.1:9/{os.getpid()}"}})


def say(text: str) -> None:
    print(text, flush=True)


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if play == "crash at start":
    tell("the reason is here")
    os.kill(os.getpid(), signal.SIGSEGV)
elif play == "quit at start":
    sys.exit(3)
elif play == "fail":
    say(json.dumps({"failed": "its model file is missing"}))
    sys.exit(1)
elif play == "never ready":
    sys.stdin.read()
elif play == "garbage":
    say("Loading checkpoint shards: 100%")
elif play == "endless garbage":
    sys.stdout.write("x" * 200_000)
    sys.stdout.flush()
elif play == "crash once ready":
    say(ready)
    sys.exit(7)
elif play == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say(ready)
    while True:
        time.sleep(60)
elif play == "deaf to stdin":
    say(ready)
    while True:
        time.sleep(60)
elif play == "talk":
    tell("my key is " + settings["key"])
    sys.stderr.buffer.write(b"not \xff utf-8\r\n" + b"y" * 100_000 + b"\n")
    tell("\n".join(f"line {i}" for i in range(100)))
    say(ready)
    say("more on stdout, which nobody reads " * 10_000)
    sys.stdin.read()
    sys.stderr.write("last words without an end of line")
    sys.stderr.flush()
else:
    say(ready)

sys.stdin.read()
