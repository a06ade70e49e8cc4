"""How an adapter is trained: numbers with defaults that work for a hundred to some thousands of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from gateway.errors import InvalidRequest

FEW, MANY = 300, 2000  # pairs
RANGES: dict[str, tuple[float, float]] = {
    "rank": (1, 256),
    "alpha": (0.1, 1024),
    "epochs": (1, 50),
    "batch": (1, 256),
    "learning_rate": (1e-7, 0.1),
    "held_out": (0, 0.5),
    "patience": (1, 50),
    "max_tokens": (32, 8192),
    "seed": (0, 2**31 - 1),
    "threads": (0, 1024),
    "memory_mb": (0, 2**24),
}


@dataclass(frozen=True)
class Settings:
    """Args:
    rank, alpha: of the two matrices beside each linear layer; what they add is scaled by alpha / rank.
    epochs: at most; training ends before when the held-out loss has not fallen `patience` times.
    batch: pairs a step.
    learning_rate: at the first step; it falls to a tenth, linearly.
    held_out: share of the pairs that is only measured with.
    max_tokens: of a pair; longer ones are left out, and counted.
    threads: that compute; 0: all that this process may use.
    memory_mb: that it may take beside the file of its model; 0: no limit.
    """

    rank: int = 16
    alpha: float = 32.0
    epochs: int = 3
    batch: int = 8
    learning_rate: float = 5e-4
    held_out: float = 0.1
    patience: int = 2
    max_tokens: int = 1024
    seed: int = 0
    threads: int = 0
    memory_mb: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def settings_for(pairs: int, said: Mapping[str, Any] | None = None) -> Settings:
    """What is not said goes by the number of pairs: few are seen more often.

    Raises: InvalidRequest for a name or a value that is none.
    """
    found = Settings(epochs=5 if pairs < FEW else 3 if pairs < MANY else 2)
    types = {field.name: type(getattr(found, field.name)) for field in fields(Settings)}
    for name, value in (said or {}).items():
        if name not in types:
            raise InvalidRequest(f"there is no setting '{name}'; there are: {', '.join(types)}", param=name)
        low, high = RANGES[name]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high or (types[name] is int and int(value) != value):
            kind = "a whole number" if types[name] is int else "a number"
            raise InvalidRequest(f"'{name}' has to be {kind} from {low:g} to {high:g}", param=name)
        found = replace(found, **{name: types[name](value)})
    return found
