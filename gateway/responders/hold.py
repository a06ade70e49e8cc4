"""The gate between a tier's draft and the client: chunks wait here until the checks have spoken."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from gateway.chat import Answer, ChatRequest, Emit, Responder, lazy
from gateway.checks import Check, Watching
from gateway.chunks import Chunk
from gateway.draft import Draft
from gateway.responders.odds import Odds
from gateway.responders.offered import Unseen, offered, offers_for
from gateway.trace import Trace

log = logging.getLogger(__name__)

WHOLE = -1  # hold size: the whole draft
FIRST_LOOK = 8  # a draft is looked at after so many words, then at each doubling, to give up early
NEVER = sys.maxsize


@dataclass(frozen=True)
class Racing:
    """When the next tier is asked beside one that is not finished.

    Args:
        after_s: so long this one is waited for alone; None: as long as half of its drafts take.
        doubt: with a greater chance than this that the next one is needed, it is asked at once; None: never so.
        prefer: `first`: after `after_s` the next one speaks as soon as it has a word. `earlier`: it only speaks once
            this one has failed, or its own answer is whole.
    """

    after_s: float | None = None
    doubt: float | None = None
    prefer: Literal["first", "earlier"] = "first"


@dataclass(frozen=True)
class Tier:
    """A rung of a cascade. `hold` is the number of words kept back for the checks: 0 none, WHOLE all. `odds`: of going
    on to the next rung; `wake`: told of the chance that this one is soon asked, where its model may sleep; `race`:
    None where the next one waits for this one's end."""

    name: str
    responder: Responder
    checks: Sequence[Check] = ()
    hold: int = 0
    odds: Odds = field(default_factory=Odds, compare=False)
    wake: Callable[[float], None] | None = None
    race: Racing | None = None

    @lazy
    def watching(self) -> list[tuple[str, Watching]]:
        """The checks that read a draft chunk by chunk, with their names."""
        return [(check.name, check) for check in self.checks if isinstance(check, Watching)]

    def ask(self, request: ChatRequest, *, can_reject: bool, can_move_on: bool) -> ChatRequest:
        """The request with what the checks need set, where the client did not ask for it.

        `can_reject`: others may be asked, so a model whose draft could not pass is not worth asking; `can_move_on`:
        others come next, so a model that sleeps need not be waited for.
        """
        if can_move_on and not request.can_move_on:
            request = replace(request, can_move_on=True)
        needs = frozenset(name for check in self.checks for name in check.needs) if can_reject else frozenset()
        if needs - request.must_show:
            request = replace(request, must_show=request.must_show | needs)
        wanted = {
            field: value
            for check in self.checks
            for field, value in check.asks.items()
            if not (request.wants_logprobs if field == "logprobs" else request.body.get(field))
        }
        request = request.with_body(**wanted) if wanted else request
        return offered(request, offers_for(request, self.checks)) if can_reject else request


class Rejected(Exception):
    """A draft failed before it was whole. It unwinds the tier that `gate` stands in, and no other."""

    def __init__(self, gate: Hold, failed: list[str]) -> None:
        super().__init__(", ".join(failed))
        self.gate = gate
        self.failed = failed


class Hold:
    """Stands as `emit` before a tier. Nothing passes until `release`, or until a prefix has passed its checks.

    Where the client wants its answer whole, chunks are only looked at: none passes, and the whole answer is judged.

    `can_reject`: there is a tier to turn to, so a draft may be given up half-way. `spoken`: a chunk has passed, so
    this answer stands.
    """

    def __init__(self, emit: Emit, request: ChatRequest, tier: Tier, span: Trace, *, can_reject: bool) -> None:
        self._emit, self._request, self._tier, self._span = emit, request, tier, span
        self._can_reject = can_reject
        several = request.choice_count > 1  # a prefix of several choices tells little of each
        self._size = WHOLE if several and tier.hold > 0 else tier.hold
        looks = can_reject or self._size > 0
        self._early = [check for check in tier.checks if check.can_fail_prefix] if looks else []
        self._hides_logprobs = not request.wants_logprobs and any("logprobs" in c.asks for c in tier.checks)
        offers = offers_for(request, tier.checks) if can_reject else []
        self._unseen = Unseen(offers, request) if offers else None
        self._held: list[Chunk] = []
        self._draft = Draft()
        self._words = 0
        self._next_look = self._first_look()
        has_echo = request.is_prompt and request.body.get("echo")
        watching = tier.watching if can_reject and not has_echo else ()
        self._watches = [(name, watch) for name, check in watching if (watch := check.watch(request)) is not None]
        self.spoken = False
        self.released = False
        self.failed: list[str] = []  # of a prefix that was let through all the same

    def _first_look(self) -> int:
        if self._early and self._can_reject:
            return FIRST_LOOK if self._size == WHOLE else min(FIRST_LOOK, self._size)
        return self._size if self._size > 0 else NEVER

    async def __call__(self, chunk: Chunk) -> None:
        if self.released:
            await self._pass(chunk)
            return
        if self._request.stream:
            self._held.append(chunk)
        elif self._size == 0:
            return
        if self._size == 0:
            # A first chunk that only names the role comes before the model has done any work: it promises too early.
            if not chunk.is_silent:
                await self._let_through()
            return
        for name, watch in self._watches:
            if (reason := watch.take(chunk)) is not None:
                log.debug("check %s: %s", name, reason)  # it may quote the draft: not for the journal
                raise Rejected(self, [name])
        if self._early:
            self._draft.take(chunk)
        self._words += chunk.word_count
        if self._words >= self._next_look:
            await self._look()

    async def _look(self) -> None:
        failed = await self._run(self._early, self._draft)
        if failed and self._can_reject:
            raise Rejected(self, failed)
        if self._size == WHOLE or not self._request.stream:
            self._next_look *= 2
        elif self._words < self._size:
            self._next_look = min(2 * self._next_look, self._size)
        else:
            self.failed = failed
            await self._let_through()

    async def _let_through(self) -> None:
        """Nothing of what is held has to wait for the checks any more."""
        await self.release()

    async def judge(self, answer: Answer) -> list[str]:
        """Names of the checks that the whole answer fails; what has been released is not judged again."""
        if self._unseen is not None:
            self._unseen.forget_drops(self._span)
        if self.released:
            return self.failed
        return await self._run(self._tier.checks, Draft.of(answer.body)) if self._tier.checks else []

    async def _run(self, checks: Sequence[Check], draft: Draft) -> list[str]:
        failed: list[str] = []
        draft = without_echo(draft, self._request)
        for check in checks:
            if failed and check.costly:
                continue
            try:
                verdict = await check(self._request, draft, self._span)
            except Exception:
                # A broken check must not take the request down, and must not let the draft through either.
                log.exception("check %s failed to run", check.name)
                self._span.note(**{check.name: "crashed"})
                failed.append(check.name)
                continue
            if verdict.score is not None:
                self._span.note(**{check.name: round(verdict.score, 4)})
            if not verdict.passed:
                failed.append(check.name)
                log.debug("check %s: %s", check.name, verdict.reason)  # it may quote the draft: not for the journal
        return failed

    async def release(self) -> None:
        """Let through what was held, and from now on everything."""
        self.released = True
        held, self._held = self._held, []
        for chunk in held:
            await self._pass(chunk)

    async def _pass(self, chunk: Chunk) -> None:
        seen = chunk if self._unseen is None else self._unseen.chunk(chunk)
        if seen is None:
            return
        self.spoken = True
        await self._emit(seen.without_logprobs() if self._hides_logprobs else seen)

    def shown(self, answer: Answer) -> Answer:
        """The answer as the client may see it."""
        answer = answer if self._unseen is None else self._unseen.answer(answer)
        return answer.without_logprobs() if self._hides_logprobs else answer

    def is_blank(self, answer: Answer) -> bool:
        """Is there nothing in it that the client may see?"""
        return self._unseen is not None and self._unseen.is_all(answer)


def without_echo(draft: Draft, request: ChatRequest) -> Draft:
    """What a model has said itself, where the client wants its prompt back in front of it."""
    if not (request.is_prompt and request.body.get("echo")):
        return draft
    bare = Draft.of(draft.completion())
    bare.complete = draft.complete
    for choice in bare.choices:
        prompt = request.prompt_of(choice.index)
        if isinstance(prompt, str) and (choice.text.startswith(prompt) or prompt.startswith(choice.text)):
            choice.parts["content"] = [choice.text[len(prompt) :]]
    return bare
