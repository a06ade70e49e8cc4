"""`engine: llama.cpp`: llama.cpp's own server, run by xllamacpp in a child process.

What its users must know of it: it notices a client that has left a stream at the next token, but one that waits for a
whole answer only while no other request is running, so ask it for streams. One batch of a prompt is never interrupted.
It closes a connection at the end of a stream, or when it was idle for 5 s, without having said so: use each once.
"""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from gateway.engines import Launch

# Prompt tokens worked on in one go: the other streams stand still meanwhile, and nothing can be cancelled. llama.cpp's
# own 2048 were 15 to 40 s of that on one slow core; 256 was no slower in tokens/s there.
BATCH_TOKENS = 256
PROMPT_CACHE_MIB = 256  # of host memory for prompts of past conversations; llama.cpp would take 8192


@dataclass(frozen=True, slots=True)
class LlamaCppSettings:
    """One GGUF model.

    Args:
        name: its name in models.yaml, also the one its server knows.
        path: the GGUF file.
        context: tokens a request may have, prompt and answer together; memory is taken for `slots` times that.
        slots: requests answered at the same time.
        threads: that compute; None: one less than this process may use cores, for llama.cpp's threads spin.
    """

    name: str
    path: Path
    context: int = 4096
    slots: int = 1
    threads: int | None = None

    def launch(self) -> Launch:
        key = secrets.token_urlsafe(32)
        settings = {
            "parent_pid": os.getpid(),
            "name": self.name,
            "key": key,
            "model_path": str(self.path),
            "context": self.context,
            "slots": self.slots,
            "threads": self.threads or max(1, _cores() - 1),
            "batch": BATCH_TOKENS,
            "cache_ram_mib": PROMPT_CACHE_MIB,
        }
        # -P: no module of the working directory stands in for one that the child imports
        argv = (sys.executable, "-P", "-m", "gateway.engines.llama_cpp_child")
        return Launch(argv=argv, settings=settings, key=key, id=self.name)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
