"""A trained adapter takes its place among the models that can be called."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from gateway.errors import NotFound
from gateway.learned_files import Learned, LearnedFile
from gateway.training.registry import NAME, Entry, document_of, folder_of, read_registry

WORDS = ("pairs.jsonl", "held_out.jsonl", "checkpoint.pt")
"""Users' words, and what only training needs: not kept longer than that takes."""


def adopt(home: Path, folder: Path, entry: Entry) -> None:
    """Its folder becomes the entry's, and the registry names it; a running server follows. Raises: GatewayError,
    OSError."""
    place = folder_of(home, entry)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    shutil.move(folder, place)
    for unneeded in WORDS:
        (place / unneeded).unlink(missing_ok=True)
    write_registry(home, {**read_registry(home), entry.full_name: entry})


def remove(home: Path, full_name: str) -> None:
    """With its files. Raises: NotFound."""
    entries = read_registry(home)
    entry = entries.pop(full_name, None)
    if entry is None:
        raise NotFound(f"no trained model is called '{full_name[:100]}'", param="model")
    write_registry(home, entries)
    shutil.rmtree(folder_of(home, entry), ignore_errors=True)


def write_registry(home: Path, entries: Mapping[str, Entry]) -> None:
    """Raises: GatewayError."""
    Learned(home).write([LearnedFile(NAME, document_of(entries))])


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
