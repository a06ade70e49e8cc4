"""Proof before use: a shard's requests are replayed on its reader without it and with it, as are requests that it
must not make worse."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import orjson

from gateway.chat import ChatRequest, Json, text_of
from gateway.embedding.remembered import Embeddings
from gateway.shards import Case, Example, Kind, Origin, Shard, Standing, State
from gateway.shards.choose import Floors, relevance_of
from gateway.shards.inject import inject, turn_of
from gateway.shards.orders import Reader
from gateway.shards.proving.cases import body_of, cases_of, controls, is_right
from gateway.shards.proving.evidence import LotProof, Outcome, Proof, admit, admit_lot, sample_size, state_after
from gateway.shards.rendering import render
from gateway.shards.search.likeness import cosines
from gateway.shards.shelf import examples_by_likeness, suits, task_of
from gateway.tasks import together
from gateway.tokens import estimate_request

log = logging.getLogger(__name__)
CONTROLS = 8  # for each shard: the likest ones to it, of those that the reader answers
MOST_ASKED = 40  # controls, to find those
MOST_CASES = 24  # of one shard
CASES_OF_A_MEMBER = 2  # of a lot
HOPELESS = 10  # cases that failed with the shard, before any gain
HARMED = 3  # cases that only passed without it
AT_ONCE = 2  # cases
READ_AGAIN = 1024  # answers without a shard, remembered

Ask = Callable[[ChatRequest], Awaitable[Json]]
"""Has the reader answer; gives the assistant's message. Raises: BackendError."""
Progress = Callable[[int, int], None]


@dataclass
class Prover:
    """Proves shards on one reader. What it answers without any shard is remembered from one proof to the next."""

    reader: Reader
    ask: Ask
    embeddings: Embeddings
    floors: Floors = Floors()

    def __post_init__(self) -> None:
        self._bare: dict[bytes, str] = {}

    async def prove(self, shard: Shard) -> tuple[Standing, Proof]:
        """Raises: BackendError where the reader cannot be asked, GatewayError where texts cannot be embedded."""
        outcomes = await self._outcomes(shard, cases_of(shard)[:MOST_CASES])
        proof = admit(outcomes)
        return self._standing(shard, proof), proof

    async def prove_or_narrow(self, shard: Shard) -> tuple[Shard, Standing, Proof]:
        """As `prove`. A process shard that helps with a part of its requests alone is narrowed to those like them, and
        comes back so if that part is admitted: each case is judged by its likeness to the others, never by itself.
        Raises: as `prove`."""
        cases = cases_of(shard)[:MOST_CASES]
        outcomes: list[Outcome] = []
        for case in cases:
            outcomes.append(await self._replay(shard, case))
            if is_hopeless(outcomes):
                proof = admit(outcomes)
                return shard, self._standing(shard, proof), proof
        near = await self._controls_for(shard)
        proof = admit([*outcomes, *near])
        if proof.admitted or not any(one.passed_with for one in outcomes):
            return shard, self._standing(shard, proof), proof
        failed = {question_of(case) for case, one in zip(cases, outcomes, strict=True) if not one.passed_with}
        passed = {question_of(case) for case in cases} - failed
        held = tuple(Example(question_of(c), c.accepted[0]) for c in cases if question_of(c) in passed)
        known = {example.user for example in shard.examples}
        examples = (*shard.examples, *(one for one in held if one.user not in known))
        narrowed = replace(shard, not_for=tuple(sorted(failed)), examples=examples)
        kept = [
            one
            for case, one in zip(cases, outcomes, strict=True)
            if await suits(self.embeddings, narrowed, question_of(case), but=question_of(case))
        ]
        part = admit([*kept, *near])
        if not part.admitted:
            return shard, self._standing(shard, proof), proof
        return narrowed, self._standing(narrowed, part), part

    async def prove_lot(
        self, shards: Sequence[Shard], progress: Progress | None = None
    ) -> tuple[list[Standing], LotProof]:
        """Facts that came together are proven by a random sample of them. Those that do harm are kept out all the
        same. Raises: as `prove`."""
        size = sample_size(len(shards))
        testable = [shard for shard in shards if cases_of(shard)]
        sample = random.Random(len(shards)).sample(testable, min(size, len(testable)))
        outcomes: dict[str, Sequence[Outcome]] = {}
        for n, shard in enumerate(sample):
            if progress is not None:
                progress(n, len(sample))
            outcomes[shard.id] = await self._outcomes(shard, cases_of(shard)[:CASES_OF_A_MEMBER])
        proof = admit_lot(outcomes, len(shards))
        hurt = set(proof.hurt_members)
        standings = [
            self._standing(shard, proof) if shard.id not in hurt else self._refused(shard, proof) for shard in shards
        ]
        return standings, proof

    def _standing(self, shard: Shard, proof: Proof | LotProof) -> Standing:
        evidence = {**proof.as_json(), "baseline": proof.baseline, "version": shard.version}
        return Standing(shard.id, self.reader.name, state_after(proof), self.reader.fingerprint, evidence)

    def _refused(self, shard: Shard, proof: LotProof) -> Standing:
        return replace(self._standing(shard, proof), state=State.CANDIDATE)

    async def _outcomes(self, shard: Shard, cases: Sequence[Case]) -> list[Outcome]:
        """The shard's own cases first; where those are hopeless, no more is asked."""
        outcomes: list[Outcome] = []
        for n in range(0, len(cases), AT_ONCE):
            outcomes += await together(*(self._replay(shard, case) for case in cases[n : n + AT_ONCE]))
            if is_hopeless(outcomes):
                return outcomes
        if not any(one.passed_with and not one.passed_without for one in outcomes):
            return outcomes
        return [*outcomes, *await self._controls_for(shard)]

    async def _controls_for(self, shard: Shard) -> list[Outcome]:
        outcomes = []
        for case, is_met in await self._near(shard):
            without = await self._answer_without(case)
            if is_met:
                outcomes.append(await self._replay(shard, case))
            else:  # the shard is never given with such a request
                tokens = estimate_request(body_of(case))
                passed = is_right(case, without)
                outcomes.append(Outcome(Origin.CONTROL, passed, passed, tokens, tokens))
        return outcomes

    async def _replay(self, shard: Shard, case: Case) -> Outcome:
        request = ChatRequest(body_of(case))
        examples = await examples_by_likeness(self.embeddings, shard, request, but=request.last_user_text)
        rendering = render(shard, self.reader.size, examples)
        if rendering is None or (not rendering.notes and not rendering.turns):
            passed = is_right(case, await self._answer_without(case))
            return Outcome(case.origin, passed, passed)
        given = inject(request, {turn_of(request.messages): [rendering]})
        answers = await together(self._answer_without(case), self._answer(given))
        passed, passed_with = (is_right(case, answer) for answer in answers)
        tokens = estimate_request(request.body), estimate_request(given.body)
        return Outcome(case.origin, passed, passed_with, *tokens)

    async def _answer_without(self, case: Case) -> str:
        request = ChatRequest(body_of(case))
        key = blake2b(orjson.dumps(request.body), digest_size=16).digest()
        if key not in self._bare:
            if len(self._bare) >= READ_AGAIN:
                self._bare.clear()
            self._bare[key] = await self._answer(request)
        return self._bare[key]

    async def _answer(self, request: ChatRequest) -> str:
        message = await self.ask(request)
        calls = message.get("tool_calls")
        return orjson.dumps(calls).decode() if calls else text_of(message.get("content"))

    async def _near(self, shard: Shard) -> list[tuple[Case, bool]]:
        """Controls that the reader gets right, the likest to the shard, and whether one would meet the shard."""
        keys = await self.embeddings.of_all(list(shard.keys) or [shard.title or shard.id])
        cases = controls()
        texts = [task_of(ChatRequest(body_of(case))) for case in cases]
        likeness = [
            relevance_of(shard, max(cosines(vector, keys)), text) or 0.0
            for text, vector in zip(texts, await self.embeddings.of_known(texts), strict=True)
        ]
        floor = self.floors.task if shard.kind is Kind.PROCESS else self.floors.fact
        found: list[tuple[Case, bool]] = []
        for place in sorted(range(len(cases)), key=lambda place: -likeness[place])[:MOST_ASKED]:
            if is_right(cases[place], await self._answer_without(cases[place])):
                found.append((cases[place], likeness[place] >= floor))
                if len(found) == CONTROLS:
                    break
        return found


def question_of(case: Case) -> str:
    return ChatRequest(body_of(case)).last_user_text.strip()


def is_hopeless(outcomes: Sequence[Outcome]) -> bool:
    """More requests could hardly show that it helps."""
    gained = sum(one.passed_with and not one.passed_without for one in outcomes)
    lost = sum(one.passed_without and not one.passed_with for one in outcomes)
    failed = sum(not one.passed_with for one in outcomes)
    return (gained == 0 and failed >= HOPELESS) or lost >= HARMED + gained
