"""A server command for `server_child.py`: listens where it is told, and may have children of its own.

fake_command.py PLAY --port PORT    its key is in $FAKE_KEY; the numbers of its processes go to $FAKE_PIDS
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

play, port = sys.argv[1], int(sys.argv[sys.argv.index("--port") + 1])
pids = Path(os.environ["FAKE_PIDS"])
SLEEP = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"


def note(pid: int) -> None:
    with pids.open("a") as file:
        file.write(f"{pid}\n")


def grandchild(*, session: bool = False) -> None:
    """Deaf to SIGTERM, like one that hangs on a GPU. Returns when it is."""
    child = subprocess.Popen([sys.executable, "-c", SLEEP], stdout=subprocess.PIPE, start_new_session=session)
    assert child.stdout is not None
    child.stdout.readline()
    note(child.pid)


class Handler(http.server.BaseHTTPRequestHandler):
    loaded_at = time.monotonic() + (0.5 if play == "loads" else 0)

    def do_GET(self) -> None:
        self.answer(200 if time.monotonic() >= self.loaded_at else 503, {"status": "ok"})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["content-length"]))
        if self.headers["authorization"] != f"Bearer {os.environ['FAKE_KEY']}":
            return self.answer(401, {"error": {"message": "wrong key"}})
        if self.path.startswith(("/sleep", "/wake_up", "/collective_rpc")):
            with pids.with_suffix(".naps").open("a") as file:
                file.write(f"{self.path} {raw.decode()}".strip() + "\n")
            return self.answer(500 if play == "does not wake" and self.path == "/wake_up" else 200, {})
        body = json.loads(raw)
        message = {"role": "assistant", "content": json.dumps(body["messages"])}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self.answer(200, {"id": "1", "object": "chat.completion", "model": body["model"], "choices": [choice]})

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        print(format % args, file=sys.stderr)


note(os.getpid())
if play == "says":
    print("stdout", flush=True)
    print("stderr " + repr(sys.stdin.read()) + " " + os.environ["FAKE_KEY"], file=sys.stderr, flush=True)
elif play == "ends":
    sys.exit(3)
elif play == "crashes":
    os.kill(os.getpid(), signal.SIGSEGV)
elif play == "never listens":
    grandchild()
    time.sleep(600)
elif play == "has children":
    grandchild()
    grandchild(session=True)
elif play == "leaves children":
    grandchild()
    subprocess.run([sys.executable, "-c", "import os, time; os.fork() or (os.setsid(), time.sleep(600))"])
elif play == "steps aside once" and not (taken := pids.with_name("taken")).exists():
    taken.write_text(str(port))
    while not pids.with_name("listening").exists():
        time.sleep(0.01)
    sys.exit(1)
elif play == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
