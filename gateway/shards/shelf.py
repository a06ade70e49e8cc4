"""The shards within reach of requests: found, chosen for a reader, and kept where they stood in a conversation."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from gateway.chat import ChatRequest
from gateway.closed import closed_answer
from gateway.embedding.remembered import Embeddings
from gateway.given import Given
from gateway.shards import OPERATOR, Example, Kind, Shard, Standing, State, audiences_for
from gateway.shards.choose import Candidate, Choice, Considered, Floors, choose
from gateway.shards.inject import inject, turn_of
from gateway.shards.orders import Reader, Wanted
from gateway.shards.proving.ledger import Ledger
from gateway.shards.proving.watch import is_withheld, utility
from gateway.shards.rendering import ROOMS, Rendering
from gateway.shards.search.index import Hit, ShardIndex
from gateway.shards.search.likeness import likenesses, nearest
from gateway.shards.store import ShardStore, served
from gateway.store.complaints import Complaints

log = logging.getLogger(__name__)
FOUND = 12  # candidates looked at
SHORT_WORDS = 8  # a question of fewer words is searched with the turn before it
CONVERSATIONS = 10_000  # remembered, of which each takes some 2 KB
ROUNDS = 4  # times the room of one turn: what a conversation may be given over all its turns
MAX_TASK_EXAMPLES = 40
OF_A_CLUSTER = "cluster:"  # begins the source of what was learned from answers
SAME_TASK = 0.8  # cosine of two system prompts; somewhat less than puts two into one cluster


class Shelf:
    """Args: `salt`: which conversations go without a shard is not to be guessed.

    `floors`: by tenant, as last calibrated; every tenant that has asked is in it.
    """

    def __init__(
        self,
        store: ShardStore,
        index: ShardIndex,
        ledger: Ledger,
        vectors: Embeddings,
        salt: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store, self.index, self.ledger, self.vectors = store, index, ledger, vectors
        self._salt, self._clock = salt, clock
        self._complaints = Complaints(log)
        self.floors: dict[str, Floors] = {OPERATOR: Floors()}
        self._shards: dict[str, Shard] = {}
        self._shards_of = -1  # the index's revision that `_shards` holds
        self._placed: OrderedDict[tuple[str, str, str], dict[int, tuple[Rendering, ...]]] = OrderedDict()

    async def give(self, request: ChatRequest, reader: Reader, wanted: Wanted) -> tuple[ChatRequest, Given]:
        """The request with what helps the reader answer it, and what that is. The answer does not hang on it: where
        the database refuses, the request goes as it is."""
        try:
            return await self._give(request, reader, wanted)
        except SQLAlchemyError as exc:  # a full disk, a lock
            reason = getattr(exc, "orig", None) or type(exc).__name__
            self._complaints.say(f"shards could not be looked for: {reason}")
            return request, Given(reader.name)

    async def _give(self, request: ChatRequest, reader: Reader, wanted: Wanted) -> tuple[ChatRequest, Given]:
        turn = turn_of(request.messages)
        place = (request.owner or "", request.conversation, reader.name)
        choice, withheld = Choice(), tuple[str, ...]()
        before = {n: placed for n, placed in self._placed.get(place, {}).items() if n < turn}
        if not turn:
            return request, Given(reader.name)
        if request.messages[-1].get("role") != "user" and turn in self._placed.get(place, {}):
            now = self._placed[place][turn]  # tools have answered: the turn goes on
        else:
            choice, withheld = await self._chosen(request, reader, wanted, before)
            now = choice.renderings
        placed = {**before, turn: now} if now else before
        self._remember(place, placed)
        renderings = [one for some in placed.values() for one in some]
        given = Given(
            reader.name,
            shards=tuple(dict.fromkeys(one.shard for one in renderings)),
            notes=tuple(note for one in renderings for note in one.notes),
            answers=tuple(example.assistant for one in renderings for example in one.turns),
            known=await self._known(request, choice),
            checks=tuple(check for one in renderings for check in one.checks),
            chosen=tuple(one.shard for one in now),
            withheld=withheld,
            considered=[one.as_json() for one in choice.considered],
            question=request.last_user_text,
        )
        return (inject(request, placed) if renderings else request), given

    async def _known(self, request: ChatRequest, choice: Choice) -> tuple[tuple[str, float], ...]:
        examples = [one for shard in choice.shards.values() for one in shard.examples[:MAX_TASK_EXAMPLES]]
        vector = await self.vectors.of(request.last_user_text) if examples else None
        if vector is None:
            return ()
        own = [(one.user, await self.vectors.of(one.user)) for one in examples]
        alike = likenesses(request.last_user_text, vector, own)
        return tuple((one.assistant, likeness) for one, likeness in zip(examples, alike, strict=True))

    def forget(self, request: ChatRequest, reader: Reader) -> None:
        """What the conversation was given stands nowhere: it did not fit."""
        self._placed.pop((request.owner or "", request.conversation, reader.name), None)

    async def _chosen(
        self, request: ChatRequest, reader: Reader, wanted: Wanted, before: dict[int, tuple[Rendering, ...]]
    ) -> tuple[Choice, tuple[str, ...]]:
        found = await self.search(request, reader, wanted)
        had = {one.shard for some in before.values() for one in some}
        left = ROUNDS * ROOMS[reader.size].tokens - sum(one.tokens for some in before.values() for one in some)
        tokens = min(left, wanted.tokens or left)
        fresh = [replace(one, barred=one.barred or "given before") if one.shard.id in had else one for one in found]
        choice = choose(fresh, request.last_user_text, reader.size, self._floors_for(request), tokens)
        withheld = [one for one in choice.renderings if await self._is_withheld(one.shard, request, reader)]
        if withheld:
            choice = _without(choice, {one.shard for one in withheld})
        return choice, tuple(one.shard for one in withheld)

    async def choose(self, request: ChatRequest, reader: Reader, wanted: Wanted) -> Choice:
        """What a first turn like this would be given, and why; nothing is withheld."""
        found = await self.search(request, reader, wanted)
        return choose(found, request.last_user_text, reader.size, self._floors_for(request), wanted.tokens)

    def _floors_for(self, request: ChatRequest) -> Floors:
        return self.floors.setdefault(request.owner or OPERATOR, Floors())

    async def _is_withheld(self, shard: str, request: ChatRequest, reader: Reader) -> bool:
        standing = (await self.ledger.standings([shard], reader.name)).get(shard)
        share = self.ledger.share_of(standing)
        return is_withheld(shard, request.conversation, share, self._salt)

    async def search(self, request: ChatRequest, reader: Reader, wanted: Wanted) -> list[Candidate]:
        """Those that have something to do with the request, the best first; each says whether it may be given."""
        audiences = audiences_for(request.owner or OPERATOR, user_of(request))
        if not self.index.holds_any(audiences):
            return []
        candidates: dict[str, Candidate] = {}
        for text, kinds in self._queries(request, wanted):
            vector = await self.vectors.of(text)
            hits = await self.index.find(audiences, text, vector, FOUND)
            for one in await self._candidates(hits, kinds, reader, vector, request):
                known = candidates.get(one.shard.id)
                if known is None or (one.cosine or 0) > (known.cosine or 0):
                    candidates[one.shard.id] = one
        return sorted(candidates.values(), key=lambda one: -one.score)

    def _queries(self, request: ChatRequest, wanted: Wanted) -> list[tuple[str, frozenset[Kind]]]:
        """What is asked finds facts, and what kind of task it is finds processes."""
        question = request.last_user_text.strip()
        if len(question.split()) < SHORT_WORDS:
            turns = [text for role, text in request.turns if role == "user"]
            question = "\n".join((*turns[-2:-1], question)) if len(turns) > 1 else question
        task = task_of(request)
        out = []
        if question and wanted.kinds:
            out.append((question, wanted.kinds))
        if task and task != question and Kind.PROCESS in wanted.kinds:
            out.append((task, frozenset({Kind.PROCESS})))
        return out

    async def _candidates(
        self, hits: Sequence[Hit], kinds: frozenset[Kind], reader: Reader, vector: bytes | None, request: ChatRequest
    ) -> list[Candidate]:
        shards = await self._read([hit.shard for hit in hits])
        standings = await self.ledger.standings(list(shards), reader.name)
        best = max((hit.score for hit in hits), default=1.0)
        now, out = self._clock(), []
        for hit in hits:
            shard = shards.get(hit.shard)
            if shard is None or shard.kind not in kinds:
                continue
            standing = standings.get(shard.id)
            barred = "" if served(shard, standing, now) else why_not(shard, standing, reader.name, now)
            if standing is not None and standing.fingerprint != reader.fingerprint and not barred:
                barred = f"not proven for {reader.name} as it is now"
            examples = None
            if not barred and is_of_another_task(shard, hit.cosine, request):
                barred = "its examples are of another task"
            if shard.kind is Kind.PROCESS and not barred and not answers_with(shard, labels_of(request)):
                barred = "its examples answer with other labels"
            if shard.kind is Kind.PROCESS and not barred and shard.not_for:
                question = request.last_user_text
                barred = "" if await suits(self.vectors, shard, question) else "most like what fails with it too"
            if shard.kind is Kind.PROCESS and not barred and len(shard.examples) > ROOMS[reader.size].examples:
                examples = await examples_by_likeness(self.vectors, shard, request)
            worth = utility(standing, now) if standing is not None else 0.5
            rate = proven_rate(standing) if standing is not None else None
            out.append(Candidate(shard, hit.cosine, hit.score / best, worth, examples, barred, rate))
        return out

    async def _read(self, ids: Sequence[str]) -> dict[str, Shard]:
        revision = self.index.revision
        if revision != self._shards_of or len(self._shards) > CONVERSATIONS:
            self._shards, self._shards_of = {}, revision
        missing = [id for id in ids if id not in self._shards]
        if missing:
            self._shards |= await self.store.get_many(missing)
        return {id: self._shards[id] for id in ids if id in self._shards}

    def _remember(self, place: tuple[str, str, str], placed: dict[int, tuple[Rendering, ...]]) -> None:
        if not placed and place not in self._placed:
            return
        self._placed[place] = placed
        self._placed.move_to_end(place)
        if len(self._placed) > CONVERSATIONS:
            self._placed.popitem(last=False)


def task_of(request: ChatRequest) -> str:
    """What tells tasks of one kind from others: the system prompt, where there is one."""
    system = "\n".join(text for role, text in request.turns if role in ("system", "developer"))
    return system.strip() or request.last_user_text.strip()


def labels_of(request: ChatRequest) -> frozenset[str]:
    """That all questions of the request's kind are answered with one of; none where it states none."""
    closed = closed_answer(request)
    is_of_kind = closed is not None and closed.form == "label" and closed.stands_apart
    return frozenset(closed.options) if closed is not None and is_of_kind else frozenset()


def is_of_another_task(shard: Shard, cosine: float | None, request: ChatRequest) -> bool:
    """Of examples that were gathered under a system prompt: is the request's another one? What is only a little like it
    asks for something else, and a very small model then answers in the examples' form."""
    has_system = task_of(request) != request.last_user_text.strip()
    return shard.source.startswith(OF_A_CLUSTER) and has_system and (cosine is None or cosine < SAME_TASK)


def answers_with(shard: Shard, labels: frozenset[str]) -> bool:
    """Do most of its worked examples show a label that a request states, if it states any?"""
    known = sum(one.assistant.strip() in labels for one in shard.examples)
    return not labels or 2 * known >= len(shard.examples)


async def examples_by_likeness(
    vectors: Embeddings, shard: Shard, request: ChatRequest, but: str | None = None
) -> tuple[Example, ...]:
    """A shard's worked examples, those most like the request last. `but`: not the one of this question."""
    pool = [one for one in shard.examples[:MAX_TASK_EXAMPLES] if one.user != but]
    if len(pool) < 2:
        return tuple(pool)
    vector = await vectors.of(request.last_user_text)
    if vector is None:
        return tuple(pool)
    own = [(one.user, await vectors.of(one.user)) for one in pool]
    return tuple(pool[place] for place in reversed(nearest(request.last_user_text, vector, own)))


async def suits(vectors: Embeddings, shard: Shard, question: str, but: str | None = None) -> bool:
    """Is a question more like those that the shard helps with than like those that fail with it too?"""
    if not shard.not_for:
        return True
    vector = await vectors.of(question)
    if vector is None:
        return False
    fails = set(shard.not_for)
    texts = [text for text in dict.fromkeys((*(one.user for one in shard.examples), *shard.not_for)) if text != but]
    known = [(text, await vectors.of(text)) for text in texts]
    ranked = nearest(question, vector, known)
    return bool(ranked) and texts[ranked[0]] not in fails


def proven_rate(standing: Standing) -> float | None:
    """Share of its proof's cases that the reader had right with it; a guess of one half counts as one more."""
    cases, right = standing.evidence.get("cases"), standing.evidence.get("passed_with")
    return (right + 0.5) / (cases + 1) if cases and right is not None else None


def user_of(request: ChatRequest) -> str | None:
    user: Any = request.body.get("user") or request.body.get("safety_identifier")
    return user if isinstance(user, str) and user else None


def why_not(shard: Shard, standing: Standing | None, reader: str, now: float) -> str:
    if shard.needs_review:
        return "waits for approval"
    if not shard.is_valid(now):
        return "not valid at this time"
    state = standing.state if standing is not None else State.CANDIDATE
    return f"retired for {reader}" if state is State.RETIRED else f"not proven for {reader}"


def _without(choice: Choice, ids: set[str]) -> Choice:
    considered = tuple(
        Considered(one.shard, one.kind, False, "withheld, to see what becomes of the answer", one.cosine)
        if one.shard in ids
        else one
        for one in choice.considered
    )
    left = tuple(one for one in choice.renderings if one.shard not in ids)
    return Choice(left, considered, {id: shard for id, shard in choice.shards.items() if id not in ids})
