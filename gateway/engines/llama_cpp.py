"""`engine: llama.cpp`: llama.cpp's own server in a child process: in xllamacpp's wheel, else in llama-cpp-python, else
`llama-server` on PATH.

What users of xllamacpp and llama-server must know: they notice a client that has left a stream at the next token, but
one that waits for a whole answer only while no other request is running, so ask them for streams. One batch of a prompt
is never interrupted. They close a connection at the end of a stream, or when it was idle for 5 s, without having said
so: use each once.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from gateway.engines import Launch, Lease, Residency
from gateway.engines.estimates import of_gguf
from gateway.engines.footprint import Footprint
from gateway.engines.llama_cpp_python import LlamaCppPythonSettings, cores_but_one
from gateway.engines.memory import machine
from gateway.engines.process import Describe, ProcessEngine
from gateway.engines.server_command import PORT, ServerCommand, executable
from gateway.engines.stored_prefixes import folder_of, make
from gateway.errors import EngineError
from gateway.probe import FoundServer, ProbeFailed, probe
from gateway.sources.split import nth_part, split_of
from gateway.transport import HttpClient

log = logging.getLogger(__name__)

# Prompt tokens worked on in one go: the other streams stand still meanwhile, and nothing can be cancelled. llama.cpp's
# own 2048 were 15 to 40 s of that on one slow core; 256 was no slower in tokens/s there.
BATCH_TOKENS = 256
PROMPT_CACHE_MIB = 256  # of host memory for prompts of past conversations; llama.cpp would take 8192
# With adapters there is none: a prompt would come back from it as another adapter had read it (seen with build 11549).
NO_PROMPT_CACHE = 0
CHECKPOINTS = 3  # of a slot's state, for models with a window; llama.cpp would make 32, some of 100 MB each

Server = Literal["xllamacpp", "llama-cpp-python", "llama-server"]
SERVERS: tuple[Server, ...] = ("xllamacpp", "llama-cpp-python", "llama-server")
HOW_TO_GET = {
    "xllamacpp": "pip install xllamacpp",
    "llama-cpp-python": "pip install 'llama-cpp-python[server]'",
    "llama-server": "put llama.cpp's llama-server on PATH, or name it as `command`",
}
LLAMA_SERVER_UNDOING = ("AGENT", "API_KEY_FILE", "ENDPOINT_PROPS", "HF_REPO", "MODEL_URL", "SSL_KEY_FILE", "TOOLS")


@dataclass(frozen=True)
class LlamaCppSettings(ProcessEngine):
    """One GGUF model.

    Args:
        name: its name in models.yaml, also the one its server knows.
        path: the GGUF file.
        mmproj: the GGUF file of its projector, which makes tokens of images.
        context: tokens a request may have, prompt and answer together; memory is taken for `slots` times that.
        slots: requests answered at the same time.
        threads: that compute; None: one less than this process may use cores, for llama.cpp's threads spin.
        gpu_layers: kept on a GPU; None: as many as it has room for.
        server: None: the first of `SERVERS` that is here, and can do it.
        command: of llama-server.
        prefixes: the folder where its server may store what its slots hold; None: it stores nothing.
        adapters: (name, GGUF file) of LoRA adapters, which its server knows by their place here. None is applied but
            to requests that say so.
    """

    name: str
    path: Path
    mmproj: Path | None = None
    context: int = 4096
    slots: int = 1
    threads: int | None = None
    gpu_layers: int | None = None
    server: Server | None = None
    command: str = "llama-server"
    residency: Residency = Residency.ALWAYS
    idle_ttl_s: float = 300.0
    preload: bool = False
    cpus: tuple[int, ...] = ()
    adapters: tuple[tuple[str, Path], ...] = ()
    prefixes: Path | None = None

    @property
    def is_present(self) -> bool:
        return all(path.exists() for path in self.files)

    @property
    def files(self) -> Collection[Path]:
        return [Path(path) for path, _ in self._gguf_files]

    @property
    def growth(self) -> Footprint:
        return Footprint(self._prompt_cache_mib << 20)

    def footprint(self) -> Footprint:
        return of_gguf(
            self.path,
            self.mmproj,
            context=self.context,
            slots=self.slots,
            gpu_layers=self.gpu_layers,
            batch=BATCH_TOKENS,
            has_gpu=self._uses_gpu and machine().gpu_bytes > 0,
            checkpoints=CHECKPOINTS,
            prompt_cache_bytes=self.growth.ram_bytes,
            adapters=[path for _, path in self.adapters],
        )

    @property
    def served_by(self) -> Server | None:
        """What serves it as things are; None where nothing here can."""
        return self.server or next((server for server in SERVERS if self._is_here(server)), None)

    @property
    def _uses_gpu(self) -> bool:
        """As far as can be told: the wheels on PyPI are built without."""
        return self.gpu_layers != 0 and (self.gpu_layers is not None or self.served_by == "llama-server")

    def describe(self, client: HttpClient) -> Describe:
        """Its chat template may have no place for tools, which only the server knows."""

        async def ask(lease: Lease) -> FoundServer | None:
            try:
                return await probe(client, lease.url, lease.key, kind="llama-server")
            except ProbeFailed as exc:
                log.warning("model %s: its server does not tell what it can do: %s", self.name, exc.reason)
                return None

        return ask

    def launch(self) -> Launch:
        server = self.served_by
        if server is None:
            ways = "; or ".join(HOW_TO_GET[server] for server in SERVERS if self._could(server))
            raise EngineError(f"nothing here can serve a GGUF file: {ways}")
        if self.server is None and server != SERVERS[0]:
            log.info("model %s: served by %s, for %s is not installed", self.name, server, SERVERS[0])
        if server == "llama-server":
            return self._llama_server().launch(self.name)
        if server == "llama-cpp-python":
            return self._llama_cpp_python().launch()
        return self._xllamacpp()

    def _is_here(self, server: Server) -> bool:
        if server == "llama-server":
            return executable(self.command) is not None
        module = "xllamacpp" if server == "xllamacpp" else "llama_cpp"
        return self._could(server) and find_spec(module) is not None

    def _could(self, server: Server) -> bool:
        # which would have to be told the projector's kind, and takes no adapter for a request
        return server != "llama-cpp-python" or (self.mmproj is None and not self.adapters)

    @property
    def _threads(self) -> int:
        return self.threads or len(self.cpus) or cores_but_one()

    @property
    def _gguf_files(self) -> list[tuple[str, str]]:
        projector = [(str(self.mmproj), "projector file")] if self.mmproj else []
        adapters = [(str(path), f"adapter '{name}'") for name, path in self.adapters]
        return [(str(self.path), "model file"), *projector, *adapters]

    @property
    def _prompt_cache_mib(self) -> int:
        return NO_PROMPT_CACHE if self.adapters else PROMPT_CACHE_MIB

    def slot_folder(self) -> Path | None:
        """None for models with a projector, whose slots no server can store, and with adapters: what one of them has
        read would be taken for another's."""
        if self.prefixes is None or self.mmproj is not None or self.adapters:
            return None
        split = split_of(str(self.path))
        parts = [Path(nth_part(str(self.path), n + 1)) for n in range(split.count)] if split else [self.path]
        told = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("LLAMA_ARG_"))
        return folder_of(self.prefixes, [*parts, self._program], told)

    @property
    def _program(self) -> Path:
        """The file that its server is run from: other builds may not read what this one has written."""
        if self.served_by == "llama-server":
            return Path(executable(self.command) or self.command)
        spec = find_spec("xllamacpp")
        return Path(spec.origin if spec is not None and spec.origin else "xllamacpp")

    def _made_slot_folder(self) -> str | None:
        folder = self.slot_folder()
        try:
            if folder is not None:
                make(folder)
        except OSError as exc:
            log.warning("model %s: no conversations can be stored: %s", self.name, exc.strerror)
            return None
        return str(folder) if folder is not None else None

    def _xllamacpp(self) -> Launch:
        key = secrets.token_urlsafe(32)
        settings = {
            "parent_pid": os.getpid(),
            "name": self.name,
            "key": key,
            "model_path": str(self.path),
            "mmproj_path": str(self.mmproj) if self.mmproj else None,
            "gguf_files": self._gguf_files,
            "context": self.context,
            "slots": self.slots,
            "threads": self._threads,
            "cpus": list(self.cpus),
            "gpu_layers": self.gpu_layers,
            "batch": BATCH_TOKENS,
            "cache_ram_mib": self._prompt_cache_mib,
            "checkpoints": CHECKPOINTS,
            "slot_folder": self._made_slot_folder(),
            "adapter_paths": [str(path) for _, path in self.adapters],
        }
        # -P: no module of the working directory stands in for one that the child imports
        argv = (sys.executable, "-P", "-m", "gateway.engines.llama_cpp_child")
        return Launch(argv=argv, settings=settings, key=key, id=self.name)

    def _llama_cpp_python(self) -> LlamaCppPythonSettings:
        if self.mmproj is not None:
            raise EngineError("with a projector it is `engine: llama-cpp-python`, which has the key chat_format")
        if self.adapters:
            raise EngineError("llama-cpp-python takes no adapter for a request: use another `server`")
        if self.slots > 1:
            log.warning("model %s: llama-cpp-python answers one request after the other", self.name)
        return LlamaCppPythonSettings(
            self.name,
            self.path,
            context=self.context,
            threads=self.threads,
            gpu_layers=self.gpu_layers,
            cpus=self.cpus,
        )

    def _llama_server(self) -> ServerCommand:
        program = executable(self.command)
        if program is None:
            raise EngineError(f"there is no llama-server here: {HOW_TO_GET['llama-server']}")
        argv = [program, "--host", "127.0.0.1", "--port", PORT, "--alias", self.name, "--model", str(self.path)]
        if self.mmproj is not None:
            argv += ["--mmproj", str(self.mmproj)]
        argv += ["--ctx-size", str(self.context * self.slots), "--parallel", str(self.slots), "--no-context-shift"]
        argv += ["--batch-size", str(BATCH_TOKENS), "--ubatch-size", str(BATCH_TOKENS)]
        argv += ["--threads", str(self._threads), "--jinja", "--no-slots"]
        if self.gpu_layers is not None:
            argv += ["--gpu-layers", str(self.gpu_layers)]
        folder = self._made_slot_folder()
        if folder is not None:
            argv += ["--slot-save-path", folder]
        argv += self._adapter_options
        env, files = self._llama_server_env, self._gguf_files
        return ServerCommand(argv, "LLAMA_API_KEY", env=env, gguf_files=files, cpus=self.cpus)

    @property
    def _adapter_options(self) -> list[str]:
        if any("," in str(path) for _, path in self.adapters):
            raise EngineError("llama-server takes no comma in the path of an adapter: rename its file or folder")
        options = [word for _, path in self.adapters for word in ("--lora", str(path))]
        return [*options, "--lora-init-without-apply"] if options else []

    @property
    def _llama_server_env(self) -> dict[str, str | None]:
        """What older builds do not know as options; they pass over variables. What would undo an option is taken
        away, since variables can say more than the command line can unsay."""
        return {
            "LLAMA_ARG_CACHE_RAM": str(self._prompt_cache_mib),
            "LLAMA_ARG_CTX_CHECKPOINTS": str(CHECKPOINTS),
            "LLAMA_ARG_KV_UNIFIED": "0",
            "LLAMA_ARG_THREADS_HTTP": str(2 * self.slots + 4),
            "LLAMA_ARG_CORS_ORIGINS": "",
            "LLAMA_ARG_CORS_CREDENTIALS": "0",
            "LLAMA_ARG_UI": "0",
            "LLAMA_ARG_OFFLINE": "1",
            "LLAMA_ARG_LOG_VERBOSITY": "1",  # errors; more would write parts of what users sent to the log
            "LLAMA_LOG_VERBOSITY": "1",
            **dict.fromkeys(("LLAMA_ARG_API_KEY_FILE", "LLAMA_ARG_HF_REPO", "LLAMA_ARG_MODEL_URL")),
            **dict.fromkeys(
                ("LLAMA_ARG_ENDPOINT_PROPS", "LLAMA_ARG_TOOLS", "LLAMA_ARG_AGENT", "LLAMA_ARG_SSL_KEY_FILE")
            ),
        }
