"""A gateway in small, to be killed: runs one child and prints its number, then "ready". Argument: a GGUF file, or
nothing for the fake."""

import asyncio
import sys
from pathlib import Path

from gateway.engines.capped_log import CappedLog
from gateway.engines.llama_cpp import LlamaCppSettings
from gateway.engines.process import ChildProcess, State
from tests.engines.fakes import Fake


async def main(home: Path, model: str) -> None:
    engine = LlamaCppSettings("core", Path(model), context=512, slots=1, threads=1) if model else Fake()
    changed = asyncio.Event()
    child = ChildProcess(engine.name, engine.launch, CappedLog(home / "child.log"), on_change=changed.set)
    child.start()
    while child.pid is None:
        await asyncio.sleep(0.001)
    print(child.pid, flush=True)
    while child.state is not State.READY:
        changed.clear()
        await changed.wait()
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
