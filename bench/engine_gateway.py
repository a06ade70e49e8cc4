"""The command `gateway`, that also writes down where its engine is, with its key: `python -m bench.engine_gateway`.

The key is new at each start and known to nobody else, so this is how the bench may ask the same engine directly. The
file is named by $BENCH_ENGINE_FILE.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from gateway.cli import main
from gateway.engines import Launch
from gateway.engines.llama_cpp import LlamaCppSettings

real_launch = LlamaCppSettings.launch


def launch_and_tell(settings: LlamaCppSettings) -> Launch:
    launch = real_launch(settings)

    def read_ready(line: bytes) -> str:
        url = launch.read_ready(line)
        part = Path(os.environ["BENCH_ENGINE_FILE"] + ".part")
        part.touch(0o600)
        part.write_text(json.dumps({"url": url, "key": launch.key, "id": launch.id}))
        part.rename(os.environ["BENCH_ENGINE_FILE"])
        return url

    return replace(launch, read_ready=read_ready)


if __name__ == "__main__":
    LlamaCppSettings.launch = launch_and_tell  # type: ignore[method-assign, assignment]
    main()
