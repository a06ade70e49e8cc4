"""`session`: which model, or which route, answered last in this conversation; None where it begins."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.chat import ChatRequest
from gateway.routing.services import Services, Sessions
from gateway.routing.signals import signal

NAMES = ("model", "route", "policy")


@dataclass(frozen=True, eq=False)
class LastIn:
    sessions: Sessions
    shown: str  # one of NAMES
    values: tuple[str, ...]


def bind(name: str, services: Services) -> LastIn:
    return LastIn(services.sessions, name, tuple(services.models) if name == "model" else ())


@signal("session", "named", bind=bind, names=NAMES)
def session(request: ChatRequest, argument: LastIn) -> str | None:
    last = argument.sessions.last(request)
    value: str | None = getattr(last, argument.shown) if last is not None else None
    return value
