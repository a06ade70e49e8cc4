"""Clients that `gateway connect` knows: what to paste, and a trial with the client itself. One client per file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

PROMPT = "Say hello in one short sentence."
KEY_VARIABLE = "GATEWAY_KEY"
SDK_SURFACES = ("models", "chat with tools", "responses stream", "completions", "embeddings")


@dataclass(frozen=True, slots=True)
class Server:
    """A gateway as a client sees it.

    Args:
        root: `http://127.0.0.1:8080`, without `/v1`.
        key: sent in trials, never shown.
        wants_key: snippets then read it from $GATEWAY_KEY.
        model: what a request's `model` says.
        timeout_s: of one trial.
    """

    root: str
    model: str = "auto"
    key: str | None = None
    wants_key: bool = False
    timeout_s: float = 120.0

    @property
    def base_url(self) -> str:
        return f"{self.root}/v1"

    @property
    def sent_key(self) -> str:
        return self.key or "unused"

    @property
    def shell_key(self) -> str:
        """The key as a shell would be told."""
        return f'"${KEY_VARIABLE}"' if self.wants_key else "unused"


@dataclass(frozen=True, slots=True)
class Snippet:
    """`where` it goes: the shell, a file."""

    where: str
    text: str


@dataclass(frozen=True, slots=True)
class Failure:
    """`status` and `code` as the gateway sent them; None where no reply came."""

    message: str
    status: int | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """One request that was really sent.

    Args:
        by: the program and its version, or that the client's request was sent without it.
        answered_by, path: the headers x-gateway-model and x-gateway-path; None where the client hides them.
        first_s, whole_s: until the first words, and until the end.
    """

    is_stream: bool
    by: str
    text: str = ""
    answered_by: str | None = None
    path: str | None = None
    first_s: float | None = None
    whole_s: float | None = None
    failure: Failure | None = None


class Client(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def surfaces(self) -> Sequence[str]:
        """Names of what it asks for: see `gateway/setup/surfaces.py`."""

    def paste(self, server: Server) -> Sequence[Snippet]: ...

    async def trials(self, server: Server) -> Sequence[Trial]:
        """With the client itself, one whole and one streamed. None where it cannot be run from here."""


def clients() -> Mapping[str, Client]:
    from gateway.setup.clients.agents import AGENTS
    from gateway.setup.clients.aider import Aider
    from gateway.setup.clients.curl import Curl
    from gateway.setup.clients.editors import EDITORS
    from gateway.setup.clients.libraries import LIBRARIES
    from gateway.setup.clients.openai_node import OpenAINode
    from gateway.setup.clients.openai_python import OpenAIPython

    run_here: Sequence[Client] = (OpenAIPython(), OpenAINode(), Curl(), Aider())
    return {client.name: client for client in (*run_here, *AGENTS, *EDITORS, *LIBRARIES)}
