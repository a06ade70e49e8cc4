"""What a user has asked to have remembered, and to have forgotten: their own words, made statements, one of each thing.

Only a user's own words come in here: nothing that a tool said or that was found somewhere.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from gateway.errors import InvalidRequest, Overloaded
from gateway.shards import Kind, Scope, Shard, State, Trust, audience_of
from gateway.shards.memory.extracting import Extracted, questions_for
from gateway.shards.memory.slots import slot_of
from gateway.shards.memory.wording import LEAD_INS, statement_of, third_person
from gateway.shards.reading.sentences import split_long, split_sentences
from gateway.shards.safety.screen import screened
from gateway.shards.search.words import words_of
from gateway.shards.store import ShardStore, Where
from gateway.trace import new_id

MAX_TEXT_CHARS = 4_000
MAX_SENTENCES = 12
MAX_WORDS, SPLIT_WORDS = 60, 30  # of one memory
MINUTE_S, DAY_S = 60.0, 86_400.0
EXACT = re.compile(r"\b(?:[A-Z]\w*|\w*\d\w*|not?|never|no longer)\b|n't\b")
"""What makes two statements differ, however alike they are."""

ID = re.compile(r"[0-9a-f]{32}")
FORGET = re.compile(
    r"^(?:(?:please|hey|ok|can you|could you|would you)[\s,]+)*(?:forget|delete|erase|remove|"
    r"drop|do not remember|don'?t remember)?\s*"
    r"(?:everything|all|anything|what(?:ever)?|the (?:fact|memory|thing)|it|that|this|my memory|memories)?\s*"
    r"(?:that )?(?:you know |i (?:said|told you) |you remember )?(?:about|of|that|regarding)?\s+",
    re.IGNORECASE,
)
EVERYTHING = re.compile(
    r"^\W*(?:(?:please )?forget )?(?:everything|all(?: of it| memories)?|anything|\*)(?: (?:you "
    r"know )?about (?:me|the user))?\W*$",
    re.IGNORECASE,
)
OF_THE_USER = frozenset(("user", "users"))


class Action(StrEnum):
    """`HELD`: it waits for review, and what it would replace holds until then."""

    ADD = "add"
    UPDATE = "update"
    NOOP = "noop"
    HELD = "held"


@dataclass(frozen=True)
class Change:
    """What became of one statement. `shard`: as it is stored; with NOOP the one that says so already. `replaced`: what
    does not hold any more."""

    action: Action
    shard: Shard
    replaced: Shard | None = None


@dataclass(frozen=True)
class Caps:
    """How much one writer may put in, and how much is kept of one user."""

    per_minute: int = 20
    per_day: int = 500
    total_per_user: int = 2_000


class Ambiguous(InvalidRequest):
    """More than one memory is meant; `found` are those."""

    def __init__(self, found: Sequence[Shard]) -> None:
        named = "; ".join(f"{shard.id}: {shard.fact}" for shard in found[:5])
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        super().__init__(
            f"{len(found)} memories are meant, name one or ask for all of them: {named}{more}", param="text"
        )
        self.found = tuple(found)


class Memories:
    """Each call looks at the memories of one user of one tenant, and at nothing else."""

    def __init__(self, store: ShardStore, clock: Callable[[], float] = time.time, caps: Caps | None = None) -> None:
        self._store, self._clock, self.caps = store, clock, caps or Caps()
        self._writing = asyncio.Lock()  # what is there is compared before it is written

    async def of(self, tenant: str, user: str) -> list[Shard]:
        """What holds now, in the order of their last change; those that wait for review too."""
        where = Where(audiences=(_audience(tenant, user),), kind=str(Kind.MEMORY))
        return [shard for shard in await self._store.find(where) if shard.state is not State.RETIRED]

    async def remember(self, text: str, tenant: str, user: str, writer: str, source: str = "") -> list[Change]:
        """Keep what a user said, a statement each. Raises: InvalidRequest, Overloaded."""
        statements = statements_in(text)
        found = [Extracted(statement, questions_for(statement), slot_of(statement)) for statement in statements]
        return await self._kept(found, tenant, user, writer, source, capped=True)

    async def keep(
        self,
        found: Sequence[Extracted],
        tenant: str,
        user: str,
        writer: str,
        source: str = "",
        *,
        capped: bool = False,
    ) -> list[Change]:
        """Keep what `extracting.extract` found in a conversation. `capped`: unless it is an operator's doing."""
        return await self._kept(found, tenant, user, writer, source, capped=capped)

    async def _kept(
        self, found: Sequence[Extracted], tenant: str, user: str, writer: str, source: str, *, capped: bool
    ) -> list[Change]:
        changes: list[Change] = []
        async with self._writing:
            there = await self.of(tenant, user)
            if capped:
                await self._admit(writer, len(found))
            for one in found:
                change = self._compared(one, there, tenant, user, writer, source)
                if change.action is not Action.NOOP:
                    if len(there) >= self.caps.total_per_user and change.replaced is None:
                        message = f"this user has {len(there)} memories, the most there may be: forget some first"
                        raise InvalidRequest(message, param="text")
                    change = await self._written(change)
                    there = [shard for shard in there if change.replaced is None or shard.id != change.replaced.id]
                    there.append(change.shard)
                changes.append(change)
        return changes

    async def _admit(self, writer: str, count: int) -> None:
        now = self._clock()
        for span_s, most, named in ((MINUTE_S, self.caps.per_minute, "minute"), (DAY_S, self.caps.per_day, "day")):
            written = await self._store.written_since(writer, now - span_s)
            if written + count > most:
                message = (
                    f"at most {most} memories a {named} can be written with one key, and {written} were: try later"
                )
                raise Overloaded(message, retry_after_s=span_s if span_s == MINUTE_S else 3600)

    def _compared(
        self, one: Extracted, there: Sequence[Shard], tenant: str, user: str, writer: str, source: str
    ) -> Change:
        now = self._clock()
        shard = Shard(
            new_id(),
            Kind.MEMORY,
            tenant,
            Scope.USER,
            user,
            fact=one.fact,
            questions=one.questions,
            passage=one.passage,
            slot=one.slot,
            source=source,
            author="rules" if one.passage else "hand",
            writer=writer,
            trust=Trust.USER,
            created=now,
            valid_from=now,
        )
        shard, reasons = screened(shard)
        said = _bare(shard.fact)
        same = next((old for old in there if _bare(old.fact) == said or _says_the_same(old, shard)), None)
        if same is not None:
            return Change(Action.NOOP, same)
        old = next((old for old in reversed(there) if shard.slot and old.slot == shard.slot), None)
        if reasons:
            return Change(Action.HELD, shard.now(supersedes=old.id if old else None))
        if old is None:
            return Change(Action.ADD, shard)
        return Change(Action.UPDATE, shard.now(supersedes=old.id), old)

    async def _written(self, change: Change) -> Change:
        if change.replaced is None:
            return replace(change, shard=(await self._store.put([change.shard]))[0])
        why = f"replaced by {change.shard.id}"
        old = change.replaced.now(state=State.RETIRED, valid_to=self._clock(), why=why)
        new, old = await self._store.put([change.shard, old])
        return Change(change.action, new, old)

    async def forget(self, query: str, tenant: str, user: str, *, every: bool = False) -> list[Shard]:
        """Erase memories, and what they once replaced: by id, by slot, or by words.

        Args:
            every: all that are meant; else there has to be one.
        Returns: what was erased; none where nothing is meant. Raises: Ambiguous, InvalidRequest.
        """
        if not query.strip():
            raise InvalidRequest("say which memory to forget", param="text")
        where = Where(audiences=(_audience(tenant, user),), kind=str(Kind.MEMORY))
        async with self._writing:
            stored = await self._store.find(where)
            current = [shard for shard in stored if shard.state is not State.RETIRED]
            meant = _meant(query.strip(), current) or _meant(query.strip(), stored)
            if len(meant) > 1 and not every:
                raise Ambiguous(meant)
            doomed = _with_predecessors(meant, stored)
            if doomed:
                await self._store.delete(where, [shard.id for shard in doomed])
        return meant


def _audience(tenant: str, user: str) -> str:
    if not user:
        raise InvalidRequest("memories are a user's: the request has to name one", param="user")
    return audience_of(Scope.USER, tenant, user)


def statements_in(text: str) -> list[str]:
    """What a user's words state, a sentence each. Raises: InvalidRequest."""
    if len(text) > MAX_TEXT_CHARS:
        raise InvalidRequest(f"at most {MAX_TEXT_CHARS} characters are remembered at a time", param="text")
    sentences = [part for line in text.splitlines() for whole in split_sentences(line) for part in _parts(whole)]
    statements = list(dict.fromkeys(filter(None, map(statement_of, sentences))))
    if not statements:
        raise InvalidRequest("there is no statement in it that could be remembered", param="text")
    if len(statements) > MAX_SENTENCES:
        raise InvalidRequest(f"at most {MAX_SENTENCES} statements are remembered at a time", param="text")
    if any(len(statement.split()) > MAX_WORDS for statement in statements):
        raise InvalidRequest(f"a memory is one sentence of at most {MAX_WORDS} words", param="text")
    return statements


def _parts(sentence: str) -> list[str]:
    """A long sentence at its semicolons, and where another subject begins."""
    parts = split_long(sentence, SPLIT_WORDS)
    if len(parts) > 1 or len(sentence.split()) <= SPLIT_WORDS:
        return parts
    return [
        part
        for part in re.split(r",?\s+(?:and|but|while)\s+(?=(?:I|my|we|our|he|she|they)\b)", sentence)
        if part.strip()
    ]


def _bare(statement: str) -> tuple[str, ...]:
    """Its words without articles and case: who says the same twice has said it once."""
    return tuple(
        word
        for word in re.findall(r"\w+", statement.lower())
        if word not in ("a", "an", "the", "s", "is", "named", "called")
    )


def _says_the_same(old: Shard, new: Shard) -> bool:
    """The same words, in whatever order and form, and the same names, numbers and denials."""
    if old.slot != new.slot:
        return False
    named = {_stem(word) for word in words_of(old.slot)} | {"call", "nam"} if old.slot else set()
    before, after = ({_stem(word) for word in words_of(shard.fact)} - named for shard in (old, new))
    exact = (set(EXACT.findall(shard.fact)) for shard in (old, new))
    return before == after and len(set(map(frozenset, exact))) == 1


def _meant(query: str, shards: Sequence[Shard]) -> list[Shard]:
    if ID.fullmatch(query):
        return [shard for shard in shards if shard.id == query]
    if EVERYTHING.match(query):
        return list(shards)
    by_slot = [shard for shard in shards if shard.slot and shard.slot.lower() == query.lower()]
    if by_slot:
        return by_slot
    asked = third_person(FORGET.sub("", LEAD_INS.sub("", query)).strip() or query)
    exact = [shard for shard in shards if _bare(shard.fact) == _bare(asked)]
    words = {_stem(word) for word in words_of(asked)} - OF_THE_USER
    if exact or not words:
        return exact
    has = {shard.id: {_stem(word) for word in words_of(f"{shard.fact} {shard.slot}")} for shard in shards}
    return [shard for shard in shards if words <= has[shard.id]]


def _stem(word: str) -> str:
    for ending in ("ing", "ies", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)].rstrip("e")
    return word.rstrip("e") if len(word) > 3 else word


def _with_predecessors(meant: Sequence[Shard], stored: Sequence[Shard]) -> list[Shard]:
    by_id = {shard.id: shard for shard in stored}
    doomed: dict[str, Shard] = {}
    waiting = list(meant)
    while waiting:
        shard = waiting.pop()
        if shard.id not in doomed:
            doomed[shard.id] = shard
            if shard.supersedes in by_id:
                waiting.append(by_id[shard.supersedes])
    return list(doomed.values())
