"""What an adapter's step means for those beside it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from gateway.training import registry
from gateway.training.registry import Entry
from gateway.training.trial import State, Step


def take_step(home: Path, name: str, step: Step, **more: object) -> Entry:
    """An adapter is in another state from now on, and so are those whose place it takes or gives back.

    Raises: GatewayError, OSError."""
    before = registry.read_registry(home).get(name)

    def stepped(entry: Entry) -> Entry:
        return replace(
            entry,
            state=step.state,
            share=step.share,
            why=step.why,
            since=time.time(),
            **more,  # type: ignore[arg-type]
        )

    entry = registry.change(home, name, stepped)
    if step.state is State.LIVE:
        own = {kind.id for kind in entry.kinds}
        for other in registry.read_registry(home).values():
            is_covered = other.kinds and {kind.id for kind in other.kinds} <= own
            if other.full_name != name and other.state is State.LIVE and is_covered:
                _mark(home, other.full_name, State.REPLACED, f"{name} answers in its place")
    elif step.state is State.ROLLED_BACK and before is not None and before.state is State.LIVE:
        for parent in filter(None, before.parent.split(",")):
            known = registry.read_registry(home).get(parent)
            if known is not None and known.state is State.REPLACED:
                _mark(home, parent, State.LIVE, f"{name} was taken back")
    return entry


def _mark(home: Path, name: str, state: State, why: str) -> None:
    share = 1.0 if state is State.LIVE else 0.0
    registry.change(home, name, lambda one: replace(one, state=state, share=share, why=why, since=time.time()))
