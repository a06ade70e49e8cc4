"""A client that is told by settings alone: what to write where, and which surfaces it asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.setup.clients import Server, Snippet, Trial

Write = Callable[[Server], Sequence[Snippet]]


@dataclass(frozen=True)
class Settings:
    name: str
    surfaces: tuple[str, ...]
    write: Write

    def paste(self, server: Server) -> Sequence[Snippet]:
        return self.write(server)

    async def trials(self, server: Server) -> Sequence[Trial]:
        return ()


def key_of(server: Server, *, otherwise: str = "unused") -> str:
    """What stands in a settings window for the key, which is never printed."""
    return "the key in $GATEWAY_KEY" if server.wants_key else f"{otherwise} (anything: the server asks for none)"
