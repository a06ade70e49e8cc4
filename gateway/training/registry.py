"""Which trained adapters there are: `learned/adapters.yaml`, beside its files in
`$GATEWAY_HOME/adapters`. Pure but for reading."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gateway.errors import GatewayError
from gateway.learned_file import VERSION, parsed_file
from gateway.learned_files import Learned, LearnedFile
from gateway.training.kinds import Kind, Record
from gateway.training.trial import State

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
        state: see `State`; `share` of the requests that it answers, in the canary; `since` when that is so, and `why`.
        kinds: of requests that it stands in for, where policies let it; of a candidate, those that it has learned.
        gate: what the gate saw.
        parent: the adapter that answered those kinds before.
    """

    name: str
    model: str
    base_sha256: str
    sha256: str
    created: float
    data: Json = field(default_factory=dict)
    settings: Json = field(default_factory=dict)
    training: Json = field(default_factory=dict)
    state: State = State.TRAINED
    share: float = 0.0
    since: float = 0.0
    why: str = ""
    kinds: tuple[Kind, ...] = ()
    gate: Json = field(default_factory=dict)
    parent: str = ""

    @property
    def full_name(self) -> str:
        return f"{self.model}:{self.name}"

    @property
    def record(self) -> Record:
        """Of the gate, for all its kinds."""
        return Record.summed(kind.held_out for kind in self.kinds)

    def as_json(self) -> Json:
        """Without what is as it is by default."""
        told = {one.name: getattr(self, one.name) for one in fields(self)}
        told |= {"state": str(self.state), "kinds": [kind.as_json() for kind in self.kinds]}
        return {name: value for name, value in told.items() if value or name in ("created",)}

    @classmethod
    def from_json(cls, said: Json) -> Entry:
        """Raises: KeyError, TypeError, ValueError for what is none."""
        known = {one.name for one in fields(cls)}
        entry = cls(**{name: value for name, value in said.items() if name in known})
        kinds = tuple(Kind.from_json(kind) for kind in said.get("kinds", ()))
        return replace(entry, kinds=kinds, state=State(entry.state))


def read_registry(home: Path) -> dict[str, Entry]:
    """By full name. Raises: ConfigError naming the file."""
    return parsed_file(path_in(home), "adapters", _entries) or {}


def entry_of(home: Path, name: str) -> Entry:
    """By its full name. Raises: GatewayError for one that is not there, ConfigError naming the file."""
    return _known(read_registry(home), name)


def _known(entries: Mapping[str, Entry], name: str) -> Entry:
    if name not in entries:
        there = ", ".join(f"'{one}'" for one in entries) or "none"
        raise GatewayError(f"no trained model is called '{name[:100]}'; there are: {there}")
    return entries[name]


def path_in(home: Path) -> Path:
    return Learned(home).path(NAME)


def _entries(data: Json) -> dict[str, Entry]:
    found = [Entry.from_json(said) for said in data[NAME]]
    return {entry.full_name: entry for entry in found}


def put(home: Path, entry: Entry) -> None:
    """A new one; what there was goes to the history of what is learned. Raises: GatewayError, OSError."""
    with _alone(home):
        Learned(home).write([_file({**read_registry(home), entry.full_name: entry})])


def change(home: Path, name: str, how: Callable[[Entry], Entry]) -> Entry:
    """One that is there, as it is at this moment: a command and a server may want to at the same time.

    Raises: GatewayError for one that is not there, OSError.
    """
    with _alone(home):
        entries = read_registry(home)
        entries[name] = how(_known(entries, name))
        Learned(home).replace(_file(entries))
        return entries[name]


def remove(home: Path, name: str) -> Entry | None:
    """The entry, then its files; None where there is none. Raises: GatewayError, OSError."""
    with _alone(home):
        entries = read_registry(home)
        gone = entries.pop(name, None)
        if gone is not None:
            Learned(home).write([_file(entries)])
    if gone is not None:
        shutil.rmtree(folder_of(home, gone), ignore_errors=True)
    return gone


def remove_all_of(home: Path, tenant: str) -> list[str]:
    """What was trained on a tenant's words: their names. Raises: GatewayError, OSError."""
    gone = []
    for name, entry in read_registry(home).items():
        key = entry.data.get("key", "") or ""
        if entry.data.get("tenant", key) == tenant or any(kind.tenant == tenant for kind in entry.kinds):
            remove(home, name)
            gone.append(name)
    return gone


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    folder = Learned(home).folder
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{NAME}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _file(entries: Mapping[str, Entry]) -> LearnedFile:
    said = [entry.as_json() for _, entry in sorted(entries.items())]
    return LearnedFile(NAME, {"version": VERSION, NAME: said})


def folder_of(home: Path, entry: Entry) -> Path:
    return home / FOLDER / quote(entry.model, safe="") / entry.name
