"""Runs llama.cpp's server, for `llama_cpp.py`: `python -m gateway.engines.llama_cpp_child`.

Reads one line of JSON settings from stdin, writes one line to stdout, `{"ready": {"url": …}}` or `{"failed": "why"}`,
and serves until stdin is closed. It never outlives the gateway, not even one killed by SIGKILL: the kernel then closes
the pipe. While xllamacpp loads a model it holds the interpreter's lock, so that nothing here can see the pipe close;
on Linux the kernel also kills this process with its parent. Elsewhere it goes when loading is done.

Imports as little as it can: it is started for every model, and stands between the gateway and C++ code.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import traceback
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1
ERRORS_ONLY = 1  # more would write parts of what users sent to the log
SSE_PING_S = 30  # the server writes the comment ":" while a prompt is being read


class Unfit(Exception):
    """It cannot be served; the message goes to the gateway, and may go on to its clients: no paths."""


def main() -> NoReturn:
    die_with_parent()
    say = take_stdout()
    line = sys.stdin.buffer.readline()
    if not line:
        os._exit(0)
    settings = json.loads(line)
    if os.getppid() != settings["parent_pid"]:  # it went before the kernel was told to watch it
        os._exit(0)
    life_line = threading.Thread(target=exit_with_stdin, daemon=True)
    life_line.start()
    try:
        server = serve(settings)
    except Unfit as exc:
        say({"failed": str(exc)})
        os._exit(1)
    say({"ready": {"url": f"{server.listening_address}/v1"}})
    life_line.join()
    os._exit(0)


def die_with_parent() -> None:
    """Linux: have the kernel kill this process when the thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def take_stdout() -> Any:
    """Keep stdout for our one line: whatever else is printed, by C++ too, goes to stderr."""
    ours = os.dup(1)
    os.dup2(2, 1)

    def say(what: dict[str, Any]) -> None:
        os.write(ours, json.dumps(what).encode() + b"\n")

    return say


def exit_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)  # at once: llama.cpp has nothing to save, and its threads may be in the middle of a token


def serve(settings: dict[str, Any]) -> Any:
    """Returns when the model is loaded and its server listens. Raises: Unfit. C++ code may also end the process."""
    check_file(settings["model_path"], "model file")
    try:
        import xllamacpp
    except ModuleNotFoundError:
        raise Unfit("xllamacpp is not installed here: pip install xllamacpp") from None
    except ImportError:
        traceback.print_exc()
        raise Unfit("xllamacpp does not run on this machine") from None
    try:
        return xllamacpp.Server(parameters(xllamacpp.CommonParams(), settings))
    except RuntimeError:  # it says no more; llama.cpp has written why to stderr
        traceback.print_exc()
        raise Unfit("llama.cpp cannot load its model file") from None


def check_file(path: str, what: str) -> None:
    """Raises: Unfit for what llama.cpp would only say in its log."""
    try:
        with open(path, "rb") as file:
            if file.read(4) != b"GGUF":
                raise Unfit(f"its {what} is not a GGUF file")
    except FileNotFoundError:
        raise Unfit(f"its {what} is missing") from None
    except OSError as exc:
        raise Unfit(f"its {what} cannot be read: {exc.strerror}") from None


def parameters(params: Any, settings: dict[str, Any]) -> Any:
    """Fill in xllamacpp's CommonParams: one model, reachable from this machine, with the key, for requests alone."""
    slots = settings["slots"]
    params.model.path = settings["model_path"]
    params.model_alias = {settings["name"]}
    params.n_ctx = settings["context"] * slots  # shared out among the slots
    params.n_parallel = slots
    params.n_batch = params.n_ubatch = settings["batch"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.cache_ram_mib = settings["cache_ram_mib"]
    params.hostnames, params.port = ["127.0.0.1"], 0  # a free port
    params.api_keys = [settings["key"]]
    params.n_threads_http = 2 * slots + 4  # each open connection takes one
    params.timeout_read = params.timeout_write = 600
    params.sse_ping_interval = SSE_PING_S
    params.verbosity = ERRORS_ONLY
    params.cors_origins, params.cors_credentials = "", False
    params.ui = params.ui_mcp_proxy = False
    params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    params.slot_save_path = params.media_path = ""
    params.offline = True
    return params


if __name__ == "__main__":
    main()
