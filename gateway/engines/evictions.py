"""Who goes when another model needs the room: a pure decision. Only the pool acts on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.engines.footprint import NOTHING, Footprint


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory.

    Args:
        worth: what its loss would cost, for the room that it takes: requests/s x seconds to load it again / GiB.
        is_held: pinned, busy, or too soon: it does not go.
    """

    name: str
    footprint: Footprint
    worth: float
    is_held: bool = False


def choose_evictions(want: Footprint, loaded: Sequence[Loaded], room: Footprint) -> list[str] | None:
    """The names of those that have to go for `want` to fit, the least worth first and no more than it takes; None where
    all that are not held would not be enough.

    Args:
        room: what is free now.
    Source: GreedyDual-Size-Frequency as in FaasCache (Fuerst and Sharma 2021), ages being the caller's.
    """
    chosen: list[Loaded] = []
    for model in sorted((model for model in loaded if not model.is_held), key=lambda model: model.worth):
        if want.fits(room + _sum(chosen)):
            break
        if _helps(model, want, room + _sum(chosen)):
            chosen.append(model)
    if not want.fits(room + _sum(chosen)):
        return None
    for model in reversed(chosen[:]):  # a large one that came later may have made smaller ones needless
        others = [other for other in chosen if other is not model]
        if want.fits(room + _sum(others)):
            chosen = others
    return [model.name for model in chosen]


def _helps(model: Loaded, want: Footprint, room: Footprint) -> bool:
    lacks_ram, lacks_gpu = want.ram_bytes > room.ram_bytes, want.gpu_bytes > room.gpu_bytes
    return (lacks_ram and model.footprint.ram_bytes > 0) or (lacks_gpu and model.footprint.gpu_bytes > 0)


def _sum(models: Sequence[Loaded]) -> Footprint:
    return sum((model.footprint for model in models), NOTHING)
