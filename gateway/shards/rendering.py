"""What a reader of some size is given of a shard. Sizes decide, for small models follow worked examples and single
sentences where prose and passages make them worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gateway.shards import Example, Kind, Shard, Trust
from gateway.tokens import estimate

TURN_TOKENS = 8  # that a chat template adds to a message

READING = (
    Example(
        "The Danube rises in Donaueschingen and flows into the Black Sea.\n\nInto which sea does the Danube flow?",
        "The Danube rises in Donaueschingen and flows into the Black Sea.",
    ),
    Example(
        "In 1931 the bridge was rebuilt by Otto Frei, who used steel instead of timber.\n\n"
        "What did Otto Frei use to rebuild the bridge?",
        "In 1931 the bridge was rebuilt by Otto Frei, who used steel instead of timber.",
    ),
    Example(
        "Members of the guild pay a yearly fee of forty crowns, which funds the school.\n\nHow is the school funded?",
        "Members of the guild pay a yearly fee of forty crowns, which funds the school.",
    ),
)
"""Shows very small models how to use a sentence that stands before a question: to say it. Measured with a model of 135M
on 36 questions about articles, whose sentence was found for 29: 23 right with these turns, 16 where the answers in them
were only the words asked for, 19 with the sentence as an earlier answer, 12 with it in the system message."""


class Size(StrEnum):
    """Of a reader, by its parameters: below 1, 3 and 8 billion, and more. Unknown is large."""

    TINY = "tiny"
    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


def size_of(parameters: float | None) -> Size:
    if parameters is None or parameters >= 8e9:
        return Size.LARGE
    return Size.TINY if parameters < 1e9 else Size.SMALL if parameters < 3e9 else Size.MEDIUM


@dataclass(frozen=True, slots=True)
class Room:
    """How much a reader is given with one turn.

    Args:
        tokens: of all shards together, estimated; the examples of reading come on top, once a conversation.
        facts: sentences or passages.
        examples, step_tokens: of a process shard.
        tasks: process shards.
        passages: passages rather than sentences.
    """

    tokens: int
    facts: int
    examples: int
    step_tokens: int
    passages: bool
    tasks: int = 1


# Measured for the first row with a model of 135M: steps without examples make it worse, passages are not read. The
# other rows go by studies of larger models, until the withheld requests say otherwise.
ROOMS = {
    Size.TINY: Room(tokens=400, facts=1, examples=4, step_tokens=0, passages=False),
    Size.SMALL: Room(tokens=600, facts=3, examples=2, step_tokens=80, passages=False),
    Size.MEDIUM: Room(tokens=1000, facts=3, examples=1, step_tokens=150, passages=True, tasks=2),
    Size.LARGE: Room(tokens=2500, facts=3, examples=1, step_tokens=300, passages=True, tasks=2),
}
MOST_SHARDS = 3  # in one request


@dataclass(frozen=True, slots=True)
class Rendering:
    """Of one shard, for one reader.

    Args:
        notes: sentences or passages.
        turns: worked examples, to stand as turns of the conversation.
        in_user_turn: they stand in front of the user's words, and not in the system message.
        is_read: they are given in the form that the examples of reading show.
        checks: that travel with it, as a policy writes them.
        tokens: estimated.
    """

    shard: str
    version: int
    notes: tuple[str, ...] = ()
    turns: tuple[Example, ...] = ()
    in_user_turn: bool = False
    is_read: bool = False
    checks: tuple[Any, ...] = ()
    tokens: int = 0


def render(shard: Shard, size: Size, examples: Sequence[Example] | None = None) -> Rendering | None:
    """None where the shard has nothing for readers of this size.

    `examples`: those to take, the most telling last; None: the shard's first ones.
    """
    room = ROOMS[size]
    notes: list[str] = []
    turns: tuple[Example, ...] = ()
    is_fact = shard.kind is not Kind.PROCESS
    if not is_fact:
        turns = tuple((shard.examples if examples is None else examples)[-room.examples :])
        notes += _steps(shard.steps, room.step_tokens)
    elif room.passages and shard.passage:
        notes.append(shard.passage)
    elif shard.fact:
        notes.append(shard.fact)
    if not notes and not turns:
        return None
    tokens = sum(map(estimate, notes)) + sum(
        estimate(turn.user) + estimate(turn.assistant) + 2 * TURN_TOKENS for turn in turns
    )
    is_read = is_fact and size is Size.TINY
    in_user_turn = is_read or shard.trust is Trust.USER
    return Rendering(shard.id, shard.version, tuple(notes), turns, in_user_turn, is_read, checks_of(shard), tokens)


def checks_of(shard: Shard) -> tuple[Any, ...]:
    """What an answer has to pass, as far as the shard says: its checks, options and schema."""
    options = ({"one_of": {"options": list(shard.options)}},) if shard.options else ()
    schema = ({"json_schema": {"schema": shard.schema}},) if shard.schema is not None else ()
    return (*shard.checks, *options, *schema)


def _steps(steps: Sequence[str], tokens: int) -> list[str]:
    """The first ones, as many as there is room for."""
    out: list[str] = []
    for number, step in enumerate(steps, start=1):
        line = f"{number}. {step}"
        tokens -= estimate(line)
        if tokens < 0:
            break
        out.append(line)
    return out
