"""LoRA adapters of llama.cpp's server: the field `lora` of a request says which of them it is answered with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.chat import Json
from gateway.errors import InvalidRequest
from gateway.providers import Provider

FIELD = "lora"


@dataclass(frozen=True)
class Adapters:
    """Those that the server of a model has loaded.

    Args:
        scales: how strongly each is applied where nobody says, by its name; in the order of the server's ids.
        own: the one that this model answers with where the client names none.
    """

    scales: Mapping[str, float]
    own: str | None = None

    def listed(self, wanted: Any, model: str) -> list[Json]:
        """What the server is sent. Every adapter is in it: a request that names none, llama.cpp answers with those of
        the request that had the slot before.

        Raises: InvalidRequest.
        """
        chosen = dict.fromkeys(self.scales, 0.0)
        if wanted is not None:
            chosen |= {self._name_of(id, model): self._scale(id, scale, model) for id, scale in _items(wanted)}
        elif self.own is not None:
            chosen[self.own] = self.scales[self.own]
        return [{"id": id, "scale": scale} for id, scale in enumerate(chosen.values())]

    def _name_of(self, id: str | int, model: str) -> str:
        names = list(self.scales)
        if id in self.scales:
            return str(id)
        if isinstance(id, int) and 0 <= id < len(names):
            return names[id]
        shown = f"'{id[:100]}'" if isinstance(id, str) else id
        there = ", ".join(f"'{name}'" for name in names)
        raise InvalidRequest(f"model '{model}' has no adapter {shown}; there are: {there}", param=FIELD)

    def _scale(self, id: str | int, scale: float | None, model: str) -> float:
        return self.scales[self._name_of(id, model)] if scale is None else scale


NO_ADAPTERS = Adapters({})
"""Of a server of ours that was started without any."""


def check(wanted: Any, model: str, adapters: Adapters | None, provider: Provider) -> None:
    """Can the model called `model` be asked for these? Raises: InvalidRequest."""
    if adapters is not None and adapters.scales:
        adapters.listed(wanted, model)
    elif adapters is None and provider.adapters == "number":
        for id, _ in _items(wanted):
            if isinstance(id, str):
                message = f"model '{model}' is on a server that knows adapters only by number, not as '{id[:100]}'"
                raise InvalidRequest(message, param=FIELD)


def choose(body: Json, model: str, adapters: Adapters | None, provider: Provider) -> tuple[str, ...]:
    """Write the server's own list into `body`. Returns: the fields that are not to be sent."""
    if adapters is not None and adapters.scales:
        body[FIELD] = adapters.listed(body.get(FIELD), model)
        return ()
    is_taken = adapters is None and provider.adapters is not None and body.get(FIELD) is not None
    return (FIELD,) if FIELD in body and not is_taken else ()


def _items(wanted: Any) -> Iterator[tuple[str | int, float | None]]:
    """(name or number, scale or None) of each. Raises: InvalidRequest."""
    if not isinstance(wanted, list):
        raise InvalidRequest("'lora' must be a list of objects with 'id' and 'scale'", param=FIELD)
    for i, item in enumerate(wanted):
        id, scale = (item.get("id"), item.get("scale")) if isinstance(item, dict) else (None, None)
        if not isinstance(id, str | int) or isinstance(id, bool):
            raise InvalidRequest(f"'lora[{i}]' must be an object whose 'id' names an adapter", param=FIELD)
        if scale is not None and not _is_finite(scale):
            raise InvalidRequest(f"'lora[{i}].scale' must be a finite number", param=FIELD)
        yield id, scale


def _is_finite(scale: Any) -> bool:
    return isinstance(scale, int | float) and not isinstance(scale, bool) and math.isfinite(scale)
