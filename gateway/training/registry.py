"""Which trained adapters there are, and how far each has come: `learned/adapters.yaml`, beside its files in
`$GATEWAY_HOME/adapters`. Pure but for reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gateway.learned_file import VERSION, parsed_file

NAME, FOLDER, LEARNED = "adapters", "adapters", "learned"
Json = dict[str, Any]


class State(StrEnum):
    """`candidate`: can be called by name, and nobody is sent to it. `shadow`: answers beside its base, unheard.
    `canary`: answers a share of what its clusters ask. `live`: all of it. `rejected`, `rolled_back`: kept, not loaded.
    """

    CANDIDATE = "candidate"
    SHADOW = "shadow"
    CANARY = "canary"
    LIVE = "live"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"

    @property
    def is_loaded(self) -> bool:
        return self not in (State.REJECTED, State.ROLLED_BACK)


@dataclass(frozen=True)
class Entry:
    """One trained adapter.

    Args:
        name: beside its model's, `MODEL:NAME`.
        model: in models.yaml, that it was trained over.
        base_sha256: of that model's file as it was.
        sha256: of the adapter's own.
        parent: the adapter that it takes the place of.
        data: what it was trained on: digest, counts, where it comes from.
        evaluation: what the gate found.
        share: of the requests of its clusters that a canary answers.
        why: it is in its state.
    """

    name: str
    model: str
    base_sha256: str
    sha256: str
    created: float
    state: State = State.CANDIDATE
    parent: str = ""
    data: Json = field(default_factory=dict)
    settings: Json = field(default_factory=dict)
    training: Json = field(default_factory=dict)
    evaluation: Json = field(default_factory=dict)
    share: float = 0.0
    why: str = ""

    @property
    def full_name(self) -> str:
        return f"{self.model}:{self.name}"

    def as_json(self) -> Json:
        told = {name: value for name, value in asdict(self).items() if value not in ({}, "", 0.0)}
        return {**told, "state": str(self.state)}


def read_registry(home: Path) -> dict[str, Entry]:
    """By full name. Raises: ConfigError naming the file."""
    return parsed_file(home / LEARNED / f"{NAME}.yaml", "adapters", _entries) or {}


def _entries(data: Json) -> dict[str, Entry]:
    known = {one.name for one in fields(Entry)}
    found = {}
    for said in data[NAME]:
        entry = Entry(**{name: value for name, value in said.items() if name in known})
        entry = replace(entry, state=State(entry.state))
        found[entry.full_name] = entry
    return found


def document_of(entries: Mapping[str, Entry]) -> Json:
    """What `learned/adapters.yaml` holds."""
    return {"version": VERSION, NAME: [entry.as_json() for _, entry in sorted(entries.items())]}


def folder_of(home: Path, entry: Entry) -> Path:
    return home / FOLDER / quote(entry.model, safe="") / entry.name
