"""`engine: vllm`: `vllm serve` in a child process. It is usually installed in an environment of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from gateway.engines import Launch, Residency, Site
from gateway.engines.estimates import of_safetensors
from gateway.engines.footprint import NOTHING, Footprint
from gateway.engines.memory import gpu_count, machine
from gateway.engines.process import ChildProcess, ProcessEngine
from gateway.engines.server_command import PORT, ServerCommand, executable
from gateway.engines.vllm_nap import VllmNap
from gateway.errors import EngineError
from gateway.transport import HttpClient

GPU_SHARE_ASLEEP = 0.1  # of what it took: CUDA's context and graphs stay


@dataclass(frozen=True)
class VllmSettings(ProcessEngine):
    """One model.

    Args:
        name: its name in models.yaml, also the one its server knows.
        model: a folder, or a repository of Hugging Face.
        context: tokens a request may have, prompt and answer together; None: the model's own.
        slots: requests answered at the same time.
        dtype: of weights and activations; None: the model's own.
        gpu_memory: share of each GPU's memory that it takes.
        tensor_parallel: GPUs that the model is spread over.
        command: the vllm executable; None: of this environment, else the one on PATH.
        args: more of its options.
        env: more variables, (name, value).
        start_s: until it must be ready: it may have to fetch and compile the model.
        sleep: level at which it makes room for others, before it is stopped; None: it is stopped.
    """

    name: str
    model: str
    context: int | None = None
    slots: int = 32
    dtype: str | None = None
    gpu_memory: float | None = None
    tensor_parallel: int = 1
    command: str | None = None
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    start_s: float = 1200.0
    sleep: int | None = None
    residency: Residency = Residency.ALWAYS
    idle_ttl_s: float = 300.0
    preload: bool = False

    def supervise(self, site: Site, on_change: Callable[[], None]) -> ChildProcess:
        patient = replace(site.patience, start_s=self.start_s)
        return super().supervise(replace(site, patience=patient), on_change)

    def footprint(self) -> Footprint:
        env = dict(self.env)
        on_gpus = machine().gpu_bytes * self.tensor_parallel // max(1, gpu_count())
        space = env.get("VLLM_CPU_KVCACHE_SPACE", "")
        found = of_safetensors(
            self.model,
            context=self.context,
            slots=self.slots,
            dtype=self.dtype,
            gpu_share=self.gpu_memory,
            gpu_total_bytes=on_gpus,
            kv_space_bytes=int(space) << 30 if space.isdigit() else None,
        )
        return found or NOTHING

    def asleep(self, loaded: Footprint) -> Footprint | None:
        if self.sleep is None:
            return None
        kept = loaded.gpu_bytes if self.sleep == 1 else 0
        return Footprint(loaded.ram_bytes + kept, int(loaded.gpu_bytes * GPU_SHARE_ASLEEP))

    def nap(self, client: HttpClient) -> VllmNap | None:
        return None if self.sleep is None else VllmNap(client, self.sleep)

    def launch(self) -> Launch:
        argv = [self._program(), "serve", self.model, "--served-model-name", self.name]
        argv += ["--host", "127.0.0.1", "--port", PORT, "--max-num-seqs", str(self.slots)]
        for option, value in [
            ("--max-model-len", self.context),
            ("--dtype", self.dtype),
            ("--gpu-memory-utilization", self.gpu_memory),
            ("--tensor-parallel-size", self.tensor_parallel if self.tensor_parallel > 1 else None),
        ]:
            if value is not None:
                argv += [option, str(value)]
        quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        if self.sleep is not None:
            argv += ["--enable-sleep-mode"]
            quiet["VLLM_SERVER_DEV_MODE"] = "1"  # without which it has no addresses to be sent to sleep by
        return ServerCommand([*argv, *self.args], "VLLM_API_KEY", env={**quiet, **dict(self.env)}).launch(self.name)

    def _program(self) -> str:
        if self.command is not None:
            program = executable(self.command)
            if program is None:
                raise EngineError("its key command names no program that can be run")
            return program
        beside = executable(str(Path(sys.executable).with_name("vllm")))
        found = beside or executable("vllm")
        if found is None:
            raise EngineError(
                "vllm is not installed here: pip install vllm, or name the vllm of another environment as `command`"
            )
        return found
