"""Rows of files to train on, of jobs and of their events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """`content` is None where only what is known of it was asked for."""

    id: str
    created: float
    key: str | None
    purpose: str
    filename: str
    size: int
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class StoredJob:
    """`body`: what was asked for and what is known of it, as JSON."""

    id: str
    created: float
    key: str | None
    status: str
    body: Json


@dataclass(frozen=True, slots=True)
class StoredEvent:
    id: int
    job: str
    created: float
    level: str
    message: str
    data: Json
