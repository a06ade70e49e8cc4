"""`engine: llama-cpp-python`: its server, which answers one request at a time, in a child process.

What its users must know: it notices a client that has left a stream at the next token, and one that waits for a whole
answer never, so ask it for streams. A prompt that is being read is not interrupted. `n` above 1 gets one choice.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from gateway.engines import Launch, Residency
from gateway.engines.estimates import of_gguf
from gateway.engines.footprint import Footprint
from gateway.engines.memory import machine
from gateway.engines.process import ProcessEngine
from gateway.engines.server_command import PORT, ServerCommand, executable
from gateway.errors import EngineError

BATCH_TOKENS = 512
SERVER_BYTES = 80 << 20  # its server in Python, beside what llama.cpp takes
ALL_LAYERS = -1


@dataclass(frozen=True)
class LlamaCppPythonSettings(ProcessEngine):
    """One GGUF model.

    Args:
        mmproj, chat_format: the projector file, and how its kind is called by llama-cpp-python.
        gpu_layers: None: all, where it is built for a GPU.
        logprobs: can it give them? It then keeps 4 bytes for each entry of the vocabulary and token of the context.
        python: the interpreter of another environment that has llama-cpp-python; None: of this one.
        others: as in `LlamaCppSettings`.
    """

    name: str
    path: Path
    mmproj: Path | None = None
    chat_format: str | None = None
    context: int = 4096
    threads: int | None = None
    gpu_layers: int | None = None
    logprobs: bool = False
    python: str | None = None
    slots: int = 1
    residency: Residency = Residency.ALWAYS
    idle_ttl_s: float = 300.0
    preload: bool = False
    cpus: tuple[int, ...] = ()

    @property
    def is_present(self) -> bool:
        return all(path.exists() for path in self.files)

    @property
    def files(self) -> Collection[Path]:
        return [self.path, *([self.mmproj] if self.mmproj else [])]

    def footprint(self) -> Footprint:
        taken = of_gguf(
            self.path,
            self.mmproj,
            context=self.context,
            slots=1,
            gpu_layers=self.gpu_layers,
            batch=BATCH_TOKENS,
            has_gpu=bool(self.gpu_layers) and machine().gpu_bytes > 0,
            checkpoints=0,
        )
        return taken + Footprint(SERVER_BYTES)

    def launch(self) -> Launch:
        argv = [self._interpreter(), "-m", "llama_cpp.server"]
        for option, value in self._options().items():
            argv += [f"--{option}", str(value)]
        projector = [(str(self.mmproj), "projector file")] if self.mmproj else []
        command = ServerCommand(
            argv,
            "API_KEY",
            env=self._env(),
            ready_path="/v1/models",
            ready_statuses=("401", "200"),
            gguf_files=[(str(self.path), "model file"), *projector],
            cpus=self.cpus,
        )
        return command.launch(self.name)

    def _interpreter(self) -> str:
        if self.python is None:
            if find_spec("llama_cpp") is None:
                raise EngineError("llama-cpp-python is not installed here: pip install 'llama-cpp-python[server]'")
            return sys.executable
        program = executable(self.python)
        if program is None:
            raise EngineError("its key python names no program that can be run")
        return program

    def _options(self) -> dict[str, object]:
        threads = self.threads or len(self.cpus) or cores_but_one()
        options: dict[str, object] = {
            "model": self.path,
            "model_alias": self.name,
            "n_ctx": self.context,
            "n_batch": BATCH_TOKENS,
            "n_threads": threads,
            "n_threads_batch": threads,
            "n_gpu_layers": ALL_LAYERS if self.gpu_layers is None else self.gpu_layers,
            "logits_all": self.logprobs,
            "use_mlock": False,
            "verbose": False,
            # a new request would end the one that is being answered, and without a word
            "interrupt_requests": False,
        }
        if self.chat_format is not None:
            options["chat_format"] = self.chat_format
        if self.mmproj is not None:
            options["clip_model_path"] = self.mmproj
        return options

    def _env(self) -> dict[str, str | None]:
        """It reads every one of its settings from the environment too, these before its options."""
        ours = {"HOST": "127.0.0.1", "PORT": PORT, "PYTHONSAFEPATH": "1"}
        return {**ours, **dict.fromkeys(("CONFIG_FILE", "SSL_KEYFILE", "SSL_CERTFILE", "ROOT_PATH"))}


def cores_but_one() -> int:
    """Of those that this process may use; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - 1)
