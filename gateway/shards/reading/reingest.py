"""A document that was read before is read again: what stays, what goes, what is new."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from gateway.shards import SERVED, Shard, State
from gateway.shards.reading.documents import Document
from gateway.shards.reading.facts import BLANK, same_words, shards_of
from gateway.trace import new_id

MIN_LIKENESS = 0.6  # of the words of two sentences, for one to be the other one edited
MAX_COMPARED = 40_000  # pairs of sentences under one heading


@dataclass(frozen=True)
class Plan:
    """What reading a document again comes to.

    Args:
        add: new shards.
        keep: shards whose sentence still stands there, under their ids; with their passage and title as they are now.
        supersede: shards whose sentence stands there no more, retired.
    """

    add: tuple[Shard, ...]
    keep: tuple[Shard, ...]
    supersede: tuple[Shard, ...]


def plan(
    document: Document,
    existing: Sequence[Shard],
    *,
    now: float,
    like: Shard = BLANK,
    make_id: Callable[[], str] = new_id,
) -> Plan:
    """Compare a document with the shards that were made of it.

    A sentence that still stands there keeps its shard, with its state: one that was retired because it did harm is not
    added again. One that went when the document changed, and is back, is new. A new sentence supersedes the old one
    of the same heading that it is most like.

    Args:
        existing: the shards of this document's source, retired ones too.
        now: unix seconds, from when on what went is no longer valid.
        like: tenant, scope, writer, lot and the like of new shards.
    """
    served_last = sorted(existing, key=lambda shard: shard.state in SERVED)
    standing = {same_words(shard.fact): shard for shard in served_last if shard.valid_to is None and shard.fact}
    add: list[Shard] = []
    keep: list[Shard] = []
    for found in shards_of(document, like, make_id):
        old = standing.pop(same_words(found.fact), None)
        if old is None:
            add.append(found)
        else:
            keep.append(_renewed(old, found))
    kept = {shard.id for shard in keep}
    gone = [shard for shard in existing if shard.valid_to is None and shard.id not in kept]
    edited = _edited([shard for shard in gone if shard.state is not State.RETIRED], add)
    successors = {old: new for new, old in edited.items()}
    return Plan(
        add=tuple(replace(shard, supersedes=edited.get(shard.id)) for shard in add),
        keep=tuple(keep),
        supersede=tuple(_retired(shard, successors.get(shard.id), now) for shard in gone),
    )


def _renewed(old: Shard, found: Shard) -> Shard:
    """What is given to readers has a new version when it changes."""
    changed = (old.fact, old.passage) != (found.fact, found.passage)
    return replace(
        old,
        fact=found.fact,
        passage=found.passage,
        title=found.title,
        source_hash=found.source_hash,
        version=old.version + changed,
    )


def _retired(shard: Shard, successor: str | None, now: float) -> Shard:
    if shard.state is State.RETIRED:
        return replace(shard, valid_to=now)
    why = f"edited in its source: see {successor}" if successor else "no longer in its source"
    return replace(shard, state=State.RETIRED, valid_to=now, why=why)


def _edited(gone: Sequence[Shard], add: Sequence[Shard]) -> dict[str, str]:
    """The id of the old shard by that of the new one, for those that are alike under the same heading."""
    pairs = []
    old_under, new_under = _by_title(gone), _by_title(add)
    for title in old_under.keys() & new_under.keys():
        olds, news = old_under[title], new_under[title]
        if len(olds) * len(news) <= MAX_COMPARED:
            pairs += [(_likeness(old.fact, new.fact), new.id, old.id) for old in olds for new in news]
    pairs.sort(key=lambda pair: -pair[0])
    out: dict[str, str] = {}
    taken: set[str] = set()
    for likeness, new, old in pairs:
        if likeness >= MIN_LIKENESS and new not in out and old not in taken:
            out[new] = old
            taken.add(old)
    return out


def _by_title(shards: Sequence[Shard]) -> dict[str, list[Shard]]:
    out: dict[str, list[Shard]] = {}
    for shard in shards:
        out.setdefault(shard.title, []).append(shard)
    return out


def _likeness(one: str, other: str) -> float:
    """Of the words, in [0, 1]."""
    matcher = SequenceMatcher(None, one.casefold().split(), other.casefold().split(), autojunk=False)
    return matcher.ratio() if matcher.quick_ratio() >= MIN_LIKENESS else 0.0
