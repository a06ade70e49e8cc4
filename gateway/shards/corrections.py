"""A person says what the answer should have been: that is the lesson from now on, and the next request like it is
given the example at once, on trial."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gateway.chat import ChatRequest, text_of
from gateway.shards import Case, Example, Kind, Scope, Shard, Standing, State, Trust
from gateway.shards.authors.examples import MAX_ANSWER_CHARS, MAX_USER_CHARS
from gateway.shards.choose import stems_of
from gateway.shards.lessons import Lesson
from gateway.shards.safety.screen import screened
from gateway.shards.shelf import labels_of

if TYPE_CHECKING:
    from gateway.shards.bookcase import Opened
    from gateway.shards.orders import Orders

AUTHOR = "correction"
EVIDENCE = {"corrected": True}


async def exemplar_of(lesson: Lesson, opened: Opened, orders: Orders) -> Shard | None:
    """Store it, on trial for every reader; for the user who asked alone, where the request names one. None where it is
    no example: the answer is a call or long, or nobody is given shards. One that looks suspicious waits for review.
    """
    shard = _shard_of(lesson)
    if shard is None or not orders.subjects:
        return None
    known = await opened.store.of_source(shard.source, shard.tenant)
    if known:
        shard = replace(shard, id=known[0].id, version=known[0].version + 1)
    stored = (await opened.store.put([shard]))[0]
    await opened.ledger.set(
        Standing(
            stored.id,
            subject.reader.name,
            State.TRIAL,
            subject.reader.fingerprint,
            evidence={**EVIDENCE, "version": stored.version},
            updated=time.time(),
        )
        for subject in orders.subjects
    )
    await opened.workshop.embed()
    await opened.index.refresh()
    return stored


def is_fact(lesson: Lesson, question: str) -> bool:
    """Was something asked for, rather than something to be done with what was said? Very small models do as worked
    examples do, but tell what they are told only where it stands before the question."""
    wanted = lesson.request.get("response_format") or labels_of(ChatRequest(lesson.request))
    return not wanted and question.endswith("?")


def _shard_of(lesson: Lesson) -> Shard | None:
    question, answer = ChatRequest(lesson.request).last_user_text.strip(), text_of(lesson.answer.get("content")).strip()
    if lesson.answer.get("tool_calls") or not 0 < len(question) <= MAX_USER_CHARS:
        return None
    if not 0 < len(answer) <= MAX_ANSWER_CHARS:
        return None
    own: dict[str, Any] = {"kind": Kind.PROCESS, "examples": (Example(question, answer),)}
    if is_fact(lesson, question):
        speaks_of_it = 2 * len(stems_of(question) & stems_of(answer)) >= len(stems_of(question))
        own = {"kind": Kind.CONTENT, "fact": answer if speaks_of_it else f"{question} {answer}"}
    shard = Shard(
        id=lesson.id,
        **own,
        tenant=lesson.tenant,
        scope=Scope.USER if lesson.user else Scope.TENANT,
        user=lesson.user,
        questions=(question,),
        cases=(Case(tuple(lesson.request["messages"]), (answer,)),),
        source=f"correction:{lesson.id}",
        author=AUTHOR,
        writer=lesson.tenant,
        trust=Trust.USER if lesson.user else Trust.TESTED,
    )
    shard, doubts = screened(shard)
    return replace(shard, needs_review=True, why=f"looks suspicious: {doubts[0]}") if doubts else shard
