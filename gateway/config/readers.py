"""The models of models.yaml as readers of shards: how large they are, and by what they are known again."""

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from pathlib import Path

import orjson

from gateway.config.files import ModelEntry
from gateway.config.model_specs import GgufSpec
from gateway.shards.orders import Reader
from gateway.shards.rendering import Size, size_of
from gateway.sources import parse as parse_source
from gateway.sources import path_of
from gateway.sources.gguf import BrokenGguf, read_header

SMALL_PARAMETERS = 1e9  # of a file that is not there yet
UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
IDENTITY = ("engine", "source", "sha256", "mmproj", "model", "provider", "chat_format", "script", "parameters")
"""What makes another model of an entry: not where its server is, what it costs and when it sleeps."""


def reader_of(name: str, entry: ModelEntry, home: Path) -> Reader:
    return Reader(name, size_of_entry(entry, home), fingerprint_of(entry))


def size_of_entry(entry: ModelEntry, home: Path) -> Size:
    """As the entry says, else as its file does. A file that is not there yet is taken for a small model's: most that
    run here are."""
    spec = entry.spec
    if spec is None:
        return Size.LARGE
    if spec.parameters is not None:
        return size_of(float(spec.parameters[:-1]) * UNITS[spec.parameters[-1]])
    if not isinstance(spec, GgufSpec):
        return Size.LARGE
    path = path_of(parse_source(spec.source), home, spec.sha256)
    try:
        return size_of(_parameters(path, path.stat().st_mtime_ns))
    except (OSError, BrokenGguf):
        return Size.TINY


def parameters_of(entry: ModelEntry, home: Path) -> float | None:
    """Weights that it has, as the entry says, else as its file does; None where nobody tells."""
    spec = entry.spec
    if spec is None or spec.parameters is not None or not isinstance(spec, GgufSpec):
        said = spec.parameters if spec is not None else None
        return None if said is None else float(said[:-1]) * UNITS[said[-1]]
    path = path_of(parse_source(spec.source), home, spec.sha256)
    try:
        return _parameters(path, path.stat().st_mtime_ns)
    except (OSError, BrokenGguf):
        return SMALL_PARAMETERS


@cache
def _parameters(path: Path, changed: int) -> float | None:
    header = read_header(path)
    return float(header.parameters * max(1, header.parts)) or None


def fingerprint_of(entry: ModelEntry) -> str:
    said = {} if entry.spec is None else entry.spec.model_dump(mode="json", include=set(IDENTITY))
    known = orjson.dumps([entry.adapter, said], option=orjson.OPT_SORT_KEYS)
    return blake2b(known, digest_size=16).hexdigest()
