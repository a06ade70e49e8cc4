"""Engines: local model servers, each a child process that speaks OpenAI's HTTP. One kind per file.

An engine only says how to start its server (`Launch`); `process.py` runs it and keeps it running; `pool.py` gives out
the right to use it (`Lease`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.errors import EngineError


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to have one request answered by a server. Plain data, so that it can be handed to another process.

    Args:
        url: where `/chat/completions` and the like hang, such as `http://127.0.0.1:PORT/v1`.
        key: what the server wants as its bearer token; None where it wants none.
        id: the name under which the server knows the model.
    """

    url: str
    key: str | None = field(repr=False)
    id: str


def read_ready_line(line: bytes) -> str:
    """The server's URL, from `{"ready": {"url": …}}`. Raises: EngineError with the reason of `{"failed": "why"}`."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict):
        if isinstance(said.get("failed"), str):
            raise EngineError(said["failed"])
        ready = said.get("ready")
        if isinstance(ready, dict) and isinstance(ready.get("url"), str):
            return str(ready["url"])
    raise EngineError("its first words were not that it is ready")


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of a server. Its key is new each time.

    Args:
        argv: the command. Every user of the machine can read it, so it holds no secret.
        settings: the child reads them as one line of JSON from its stdin. The pipe then stays open: that it closes
            tells the child that nobody needs it any more.
        key, id: as in `Lease`.
        read_ready: from the first line of the child's stdout to the server's URL. Raises: EngineError, whose message
            may be shown to clients.
    """

    argv: tuple[str, ...]
    settings: Mapping[str, Any] = field(repr=False)
    key: str = field(repr=False)
    id: str
    read_ready: Callable[[bytes], str] = read_ready_line


class Engine(Protocol):
    """One model on one kind of server: plain settings, equal when they ask for the same server."""

    @property
    def name(self) -> str:
        """The model's name in models.yaml."""

    @property
    def slots(self) -> int:
        """Requests that it works on at the same time."""

    def launch(self) -> Launch:
        """How to start it, now. Raises: EngineError, whose message may be shown to clients."""
