"""Which of the shards that were found are given: relevance, likeness, ambiguity and room. Pure.

One right sentence lifts a small model from nothing to most; three sentences that say the same of other things halve
that again. So where the question does not tell them apart, nothing is given, and larger models are asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from gateway.shards import Example, Json, Kind, Shard
from gateway.shards.rendering import MOST_SHARDS, ROOMS, Rendering, Size, render
from gateway.stems import stem

ALIKE = 0.8  # of two facts' words: one of them is enough
SAME_FORM = 0.75  # of two facts' words, names and numbers left out: they say the same of different things
MIN_FORM = 4
NAMED = "\0"
MUCH_WEAKER = 0.15  # than the best: noise beside it
WORDS_COUNT = 0.3  # beside the cosine, which counts for 1
GUARDED = (Size.TINY, Size.SMALL)

WORD = re.compile(r"\w+(?:['’.-]\w+)*")
STOP = frozenset(
    "a an the of in on at to for from by with and or as is are was were be been has have had do does did that this"
    " it its his her their our your my which who whom whose what when where why how not no so than then there".split()
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A shard that was found. `utility`: in [0, 1], what is known of its use to this reader; `rate`: share of the cases
    of its proof that the reader had right with it; `examples`: its worked examples in the order of their likeness to
    the request, the best last."""

    shard: Shard
    cosine: float | None
    score: float
    utility: float = 0.5
    examples: tuple[Example, ...] | None = None
    barred: str = ""  # why it may not be given, whatever it says
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Considered:
    """What became of a candidate, for the trace."""

    shard: str
    kind: Kind
    is_in: bool
    why: str
    cosine: float | None = None
    rate: float | None = None

    def as_json(self) -> Json:
        known = {"cosine": self.cosine, "rate": self.rate}
        numbers = {name: round(value, 3) for name, value in known.items() if value is not None}
        return {"shard": self.shard, "kind": str(self.kind), "in": self.is_in, "why": self.why, **numbers}


@dataclass(frozen=True)
class Choice:
    renderings: tuple[Rendering, ...] = ()
    considered: tuple[Considered, ...] = ()
    shards: Mapping[str, Shard] = field(default_factory=dict)  # those given


@dataclass(frozen=True, slots=True)
class Floors:
    """Relevance below which a candidate has nothing to do with the request; of tasks, cosine."""

    fact: float = 0.55
    task: float = 0.5


def choose(
    candidates: Sequence[Candidate], question: str, size: Size, floors: Floors, tokens: int | None = None
) -> Choice:
    """The best at most three, within the reader's room (or `tokens`, where that is less)."""
    out: dict[str, str] = {one.shard.id: one.barred for one in candidates if one.barred}
    relevance = {one.shard.id: relevance_of(one.shard, one.cosine, question) for one in candidates}
    left = [one for one in candidates if not one.barred]
    left = _relevant(left, relevance, floors, out)
    left.sort(key=lambda one: 0.6 * (relevance[one.shard.id] or 0.0) + 0.4 * one.utility, reverse=True)
    left = _once(left, out)
    if size in GUARDED:
        left = _told_apart(left, question, out)
    return _within(left, size, tokens, out, candidates)


def relevance_of(shard: Shard, cosine: float | None, question: str) -> float | None:
    """What a fact has to do with a question: likeness in meaning, and the share of the question's words that it has.
    None where its vector is not there yet.

    Measured on 107 questions about 28 articles: of those whose floor lets 3 in 100 everyday questions through, 86 are
    given a sentence with the answer; by meaning alone, 76.
    """
    if cosine is None or shard.kind is Kind.PROCESS:
        return cosine
    asked = stems_of(question)
    shared = max((len(asked & stems_of(key)) for key in shard.keys), default=0)
    return cosine + WORDS_COUNT * shared / max(1, len(asked))


def stems_of(text: str) -> frozenset[str]:
    return frozenset(map(stem, words_of(text)))


def _relevant(
    candidates: Sequence[Candidate], relevance: Mapping[str, float | None], floors: Floors, out: dict[str, str]
) -> list[Candidate]:
    left = []
    facts = [one for one in candidates if one.shard.kind is not Kind.PROCESS]
    best = max((relevance[one.shard.id] or 0.0 for one in facts), default=0.0)
    for one in candidates:
        is_task, found = one.shard.kind is Kind.PROCESS, relevance[one.shard.id]
        floor = floors.task if is_task else floors.fact
        if found is None:
            out[one.shard.id] = "its likeness to the request is not known yet"
        elif found < floor:
            out[one.shard.id] = f"not relevant: {found:.2f} is below {floor:.2f}"
        elif not is_task and found < best - MUCH_WEAKER:
            out[one.shard.id] = f"much less relevant than the best: {found:.2f} to {best:.2f}"
        else:
            left.append(one)
    return left


def _once(candidates: Sequence[Candidate], out: dict[str, str]) -> list[Candidate]:
    """One of each slot, and one of those that say the same."""
    left: list[Candidate] = []
    for one in candidates:
        twin = next((other for other in left if _is_twin(one.shard, other.shard)), None)
        if twin is None:
            left.append(one)
        else:
            out[one.shard.id] = f"says the same as {twin.shard.id}"
    return left


def _is_twin(one: Shard, other: Shard) -> bool:
    if one.kind is Kind.PROCESS or other.kind is Kind.PROCESS:
        return False
    if one.slot and one.slot == other.slot and one.audience == other.audience:
        return True
    return likeness(words_of(one.fact), words_of(other.fact)) >= ALIKE


def _told_apart(candidates: Sequence[Candidate], question: str, out: dict[str, str]) -> list[Candidate]:
    """Of facts that say the same of different things, those whose thing the question names, and none if that leaves
    several."""
    left = list(candidates)
    asked = words_of(question)
    for one in candidates:
        group = [other for other in left if other is one or _is_rival(one.shard, other.shard)]
        if one not in left or len(group) < 2:
            continue
        named = [other for other in group if (own := own_words(other.shard, group)) and own <= asked]
        kept = named if len(named) == 1 else []
        why = "the question names another" if kept else f"{len(group)} say the same of different things"
        for other in group:
            if other not in kept:
                left.remove(other)
                out[other.shard.id] = f"ambiguous: {why}"
    return left


def _is_rival(one: Shard, other: Shard) -> bool:
    if one.kind is Kind.PROCESS or other.kind is Kind.PROCESS:
        return False
    if one.slot and other.slot and "|" in one.slot and "|" in other.slot:
        (entity, attribute), (another, same) = one.slot.split("|", 1), other.slot.split("|", 1)
        return attribute == same and entity != another
    form, other_form = form_of(one.fact), form_of(other.fact)
    return min(len(form), len(other_form)) >= MIN_FORM and _ratio(form, other_form) >= SAME_FORM


def own_words(shard: Shard, group: Sequence[Candidate]) -> frozenset[str]:
    """The names in it that none of the others has, up to its verb or so: what it speaks of."""
    if "|" in shard.slot:
        return words_of(shard.slot.split("|", 1)[0])
    others: frozenset[str] = frozenset().union(*(words_of(o.shard.fact) for o in group if o.shard is not shard))
    own = words_of(shard.fact) - others
    half = [word.lower() for word in WORD.findall(shard.fact)]
    half = half[: max(1, len(half) // 2 + 1)]
    return frozenset(word for word in own if word in half)


def words_of(text: str) -> frozenset[str]:
    return frozenset(word for word in map(str.lower, WORD.findall(text)) if word not in STOP)


def form_of(text: str) -> list[str]:
    """Its words in their order, with one mark for each run of names and numbers."""
    out: list[str] = []
    for word in WORD.findall(text):
        is_name = (word[:1].isupper() and word.lower() not in STOP) or any(map(str.isdigit, word))
        if not is_name:
            out.append(word.lower())
        elif out[-1:] != [NAMED]:
            out.append(NAMED)
    return out


def _ratio(one: Sequence[str], other: Sequence[str]) -> float:
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def likeness(one: frozenset[str], other: frozenset[str]) -> float:
    """Of two sets of words, in [0, 1]: what they share of all."""
    return len(one & other) / len(one | other) if one or other else 0.0


def _within(
    candidates: Sequence[Candidate], size: Size, tokens: int | None, out: dict[str, str], all_: Sequence[Candidate]
) -> Choice:
    room = ROOMS[size]
    left_tokens = room.tokens if tokens is None else min(tokens, room.tokens)
    given: list[Rendering] = []
    chosen: dict[str, Shard] = {}
    tasks = facts = 0
    passages: set[str] = set()
    for one in candidates:
        shard = one.shard
        rendering = render(shard, size, one.examples)
        if rendering is None:
            out[shard.id] = f"has nothing for a {size} reader"
        elif len(given) == MOST_SHARDS:
            out[shard.id] = f"{MOST_SHARDS} better ones are given"
        elif shard.kind is Kind.PROCESS and tasks == room.tasks:
            out[shard.id] = "another process fits better"
        elif shard.kind is not Kind.PROCESS and facts == room.facts:
            out[shard.id] = f"{facts} better ones are given, which is all that a {size} reader makes use of"
        elif rendering.notes and set(rendering.notes) <= passages:
            out[shard.id] = "its passage is given already"
        elif rendering.tokens > left_tokens:
            out[shard.id] = f"no room: {rendering.tokens} tokens, {left_tokens} are left"
        else:
            tasks += shard.kind is Kind.PROCESS
            facts += shard.kind is not Kind.PROCESS
            left_tokens -= rendering.tokens
            passages |= set(rendering.notes)
            given.append(rendering)
            chosen[shard.id] = shard
    considered = tuple(
        Considered(
            one.shard.id,
            one.shard.kind,
            one.shard.id in chosen,
            "given" if one.shard.id in chosen else out.get(one.shard.id, ""),
            one.cosine,
            one.rate,
        )
        for one in all_
    )
    return Choice(tuple(given), considered, chosen)
