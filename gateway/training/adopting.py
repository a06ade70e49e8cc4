"""A trained adapter takes its place among the models that can be called."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from gateway.sources.storage import sha256_of
from gateway.training.process import ADAPTER
from gateway.training.registry import Entry, Json, folder_of, put
from gateway.training.settings import Settings

WORDS = ("pairs.jsonl", "held_out.jsonl", "checkpoint.pt")
"""Users' words, and what only training needs: not kept longer than that takes."""


def adopt(
    home: Path,
    folder: Path,
    *,
    model: str,
    name: str,
    base: Path,
    data: Json,
    settings: Settings,
    report: Json,
    **more: Any,
) -> Entry:
    """What training has left in `folder` becomes the adapter `name` of `model`; a running server follows.

    Args: `base`: the file of that model; `data`: what it was trained on; `report`: of the process that trained;
    `more`: what else its entry says.
    Raises: GatewayError, OSError.
    """
    entry = Entry(
        name=name,
        model=model,
        base_sha256=sha256_of(base),
        sha256=sha256_of(folder / ADAPTER),
        created=time.time(),
        data=data,
        settings=settings.as_json(),
        training={key: value for key, value in report.items() if value is not None},
        **more,
    )
    place = folder_of(home, entry)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    shutil.move(folder, place)
    for unneeded in WORDS:
        (place / unneeded).unlink(missing_ok=True)
    put(home, entry)
    return entry
