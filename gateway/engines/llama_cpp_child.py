"""Runs llama.cpp's server by xllamacpp, for `llama_cpp.py`: `python -m gateway.engines.llama_cpp_child`.

It speaks with the gateway as `child.py` says, and never outlives it, not even one killed by SIGKILL: the kernel then
closes the pipe. While xllamacpp loads a model it holds the interpreter's lock, so that nothing here can see the pipe
close; on Linux the kernel also kills this process with its parent. Elsewhere it goes when loading is done.

Imports as little as it can: it stands between the gateway and C++ code.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from typing import Any, NoReturn

from gateway.engines.child import Unfit, check_gguf, die_with_parent, keep_to_cpus, read_settings, take_stdout

ERRORS_ONLY = 1  # more would write parts of what users sent to the log
SSE_PING_S = 30  # the server writes the comment ":" while a prompt is being read


def main() -> NoReturn:
    die_with_parent()
    say = take_stdout()
    settings = read_settings()
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


def exit_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)  # at once: llama.cpp has nothing to save, and its threads may be in the middle of a token


def serve(settings: dict[str, Any]) -> Any:
    """Returns when the model is loaded and its server listens. Raises: Unfit. C++ code may also end the process."""
    for path, what in settings["gguf_files"]:
        check_gguf(path, what)
    keep_to_cpus(settings["cpus"])
    try:
        import xllamacpp
    except ModuleNotFoundError:
        raise Unfit("xllamacpp is not installed here: pip install xllamacpp") from None
    except ImportError:
        traceback.print_exc()
        raise Unfit("xllamacpp does not run on this machine") from None
    print(f"served by xllamacpp {xllamacpp.__version__}", file=sys.stderr, flush=True)
    try:
        os.umask(0o077)  # of what it keeps of conversations, too
        params = parameters(xllamacpp.CommonParams(), settings)
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in settings["adapter_paths"]]
        params.lora_init_without_apply = True
        return xllamacpp.Server(params)
    except RuntimeError:  # it says no more; llama.cpp has written why to stderr
        traceback.print_exc()
        raise Unfit(
            "llama.cpp cannot load its " + " or its ".join(what for _, what in settings["gguf_files"])
        ) from None


def parameters(params: Any, settings: dict[str, Any]) -> Any:
    """Fill in xllamacpp's CommonParams: one model, reachable from this machine, with the key, for requests alone."""
    slots = settings["slots"]
    params.model.path = settings["model_path"]
    if settings["mmproj_path"] is not None:
        params.mmproj.path = settings["mmproj_path"]
    params.model_alias = {settings["name"]}
    params.n_ctx = settings["context"] * slots  # shared out among the slots
    params.n_parallel = slots
    params.ctx_shift = False  # a conversation that is too long is refused, not cut
    if settings["gpu_layers"] is not None:
        params.n_gpu_layers = settings["gpu_layers"]
    params.n_batch = params.n_ubatch = settings["batch"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.cache_ram_mib = settings["cache_ram_mib"]
    params.n_ctx_checkpoints = settings["checkpoints"]
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
    if settings["slot_folder"] is not None:  # POST /slots/N?action=save and restore
        params.slot_save_path = os.path.join(settings["slot_folder"], "")
    params.offline = True
    return params


if __name__ == "__main__":
    main()
