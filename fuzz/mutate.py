"""Bytes that hold JSON, bent where the JSON is: a value becomes another kind, goes, comes twice, or changes places.

Bytes changed at random are mostly no JSON any more, and get no further than the parser.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import orjson

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 1e300, 2**63, 2**64 - 1, "", " ", "a", "\0", "\u202e", "0", "null", "é" * 99),
    *(
        [],
        {},
        [None],
        [[]],
        [{}],
        {"type": None},
        {"": {}},
        {"type": "text"},
        ["a", 1],
        {"text": 1},
        "data:,",
        "{",
        '{"a":1}',
    ),
)
DATA = b"data: "


def mutator(head_bytes: int) -> Callable[[bytes, int, int], bytes]:
    """For atheris. `head_bytes`: those before the JSON."""

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.2 or len(data) <= head_bytes:
            return _cut(data, random)[:max_size]
        head, rest = bytearray(data[:head_bytes]), data[head_bytes:]
        if head and random.random() < 0.1:
            head[0] = random.randrange(256)
        bend = _bent_events if DATA in rest else _bent_json
        for _ in range(random.randint(1, 3)):
            bent = bend(rest, random)
            if bent is None:
                return _cut(data, random)[:max_size]
            rest = bent
        return (bytes(head) + rest)[:max_size]

    return mutate


def _cut(data: bytes, random: Random) -> bytes:
    """Some bytes go, come, or come twice."""
    start = random.randint(0, len(data))
    end = min(len(data), start + random.randrange(8))
    return data[:start] + random.choice((b"", data[start:end] * 2, random.randbytes(end - start + 1))) + data[end:]


def _bent_json(raw: bytes, random: Random) -> bytes | None:
    try:
        return orjson.dumps(_bent(orjson.loads(raw), random))
    except (orjson.JSONDecodeError, TypeError):
        return None


def _bent_events(raw: bytes, random: Random) -> bytes | None:
    """A stream's: one of its events, or their order."""
    events = raw.split(b"\n\n")
    place = random.randrange(len(events))
    match random.randrange(6):
        case 0:
            events.insert(place, random.choice(events))
        case 1:
            del events[place]
        case 2:
            random.shuffle(events)
        case _:
            bent = _bent_json(events[place].removeprefix(DATA), random)
            if bent is None:
                return b"\n\n".join(events)
            events[place] = DATA + bent
    return b"\n\n".join(events)


def _bent(value: Any, random: Random) -> Any:
    places = list(_places(value))
    if not places:
        return random.choice(ODD)
    holder, key = random.choice(places)
    match random.randrange(6):
        case 0:
            del holder[key]
        case 1:
            holder[key] = [holder[key]]
        case 2 if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        case 3:
            other, there = random.choice(places)
            holder[key] = copy.deepcopy(other[there])
        case _:
            holder[key] = copy.deepcopy(random.choice(ODD))
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])
