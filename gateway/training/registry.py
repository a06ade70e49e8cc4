"""Which trained adapters there are: `learned/adapters.yaml`, beside its files in
`$GATEWAY_HOME/adapters`. Pure but for reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gateway.learned_file import VERSION, parsed_file
from gateway.learned_files import Learned

NAME = FOLDER = "adapters"
Json = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One trained adapter.

    Args:
        name: beside its model's, `MODEL:NAME`.
        model: in models.yaml, that it was trained over.
        base_sha256: of that model's file as it was.
        sha256: of the adapter's own.
        data: what it was trained on: digest, counts, where it comes from.
    """

    name: str
    model: str
    base_sha256: str
    sha256: str
    created: float
    data: Json = field(default_factory=dict)
    settings: Json = field(default_factory=dict)
    training: Json = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        return f"{self.model}:{self.name}"

    def as_json(self) -> Json:
        return {name: value for name, value in asdict(self).items() if value != {}}


def read_registry(home: Path) -> dict[str, Entry]:
    """By full name. Raises: ConfigError naming the file."""
    return parsed_file(path_in(home), "adapters", _entries) or {}


def path_in(home: Path) -> Path:
    return Learned(home).path(NAME)


def _entries(data: Json) -> dict[str, Entry]:
    known = {one.name for one in fields(Entry)}
    found = {}
    for said in data[NAME]:
        entry = Entry(**{name: value for name, value in said.items() if name in known})
        found[entry.full_name] = entry
    return found


def document_of(entries: Mapping[str, Entry]) -> Json:
    """What `learned/adapters.yaml` holds."""
    return {"version": VERSION, NAME: [entry.as_json() for _, entry in sorted(entries.items())]}


def folder_of(home: Path, entry: Entry) -> Path:
    return home / FOLDER / quote(entry.model, safe="") / entry.name
