"""A process shard from answered requests: worked examples, and cases to test them with. No model is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from gateway.chat import ChatRequest, text_of
from gateway.quality.same import plain
from gateway.shards import Case, Example, Kind, Origin, Shard, Trust
from gateway.shards.clusters import Cluster
from gateway.shards.lessons import Lesson
from gateway.shards.safety.screen import screened
from gateway.shards.shelf import OF_A_CLUSTER, task_of
from gateway.trace import new_id

AUTHOR = "examples"
MIN_LESSONS = 8
MAX_EXAMPLES = 40
MAX_CASES = 24
HELD_OUT_OF = 4  # every fourth lesson is held out: it is tested with, and no example
MAX_USER_CHARS, MAX_ANSWER_CHARS = 600, 400
LIMITS = ("max_tokens", "max_completion_tokens")
CASE_FIELDS = ("response_format", *LIMITS)
SPARE_TOKENS = 24  # beside one for each character of the right answer


def author(cluster: Cluster, before: Shard | None = None) -> Shard | None:
    """None where there is too little to learn from. `before`: the shard of which this is the next version."""
    lessons = usable(cluster.lessons)
    if len(lessons) < MIN_LESSONS:
        return None
    held_out = lessons[HELD_OUT_OF - 1 :: HELD_OUT_OF]
    taught = [lesson for lesson in lessons if lesson not in held_out]
    examples = tuple(Example(question_of(lesson), answer_of(lesson)) for lesson in taught[-MAX_EXAMPLES:])
    shard = Shard(
        id=before.id if before is not None else new_id(),
        kind=Kind.PROCESS,
        tenant=cluster.tenant,
        version=before.version + 1 if before is not None else 1,
        trigger=task_of(ChatRequest(lessons[-1].request)),
        examples=examples,
        schema=schema_of(lessons[-1]),
        cases=tuple(cases_of(taught, held_out)),
        source=f"{OF_A_CLUSTER}{cluster.id}",
        author=AUTHOR,
        trust=Trust.TESTED,
        created=before.created if before is not None else 0.0,
    )
    shard, doubts = screened(shard)
    return replace(shard, needs_review=True, why=f"looks suspicious: {doubts[0]}") if doubts else shard


def usable(lessons: Sequence[Lesson]) -> list[Lesson]:
    """One-turn requests with short answers in text, each question once; the latest answer to it counts."""
    found: dict[str, Lesson] = {}
    for lesson in lessons:
        question, answer = question_of(lesson), answer_of(lesson)
        users = sum(message.get("role") == "user" for message in lesson.request["messages"])
        if users == 1 and 0 < len(question) <= MAX_USER_CHARS and 0 < len(answer) <= MAX_ANSWER_CHARS:
            found[plain(question) or question] = lesson
    return list(found.values())


def question_of(lesson: Lesson) -> str:
    return ChatRequest(lesson.request).last_user_text.strip()


def answer_of(lesson: Lesson) -> str:
    return "" if lesson.answer.get("tool_calls") else text_of(lesson.answer.get("content")).strip()


def cases_of(taught: Sequence[Lesson], held_out: Sequence[Lesson]) -> list[Case]:
    """The held-out ones, and as many of those that the examples come from (each is tested without its own example)."""
    some = [(lesson, Origin.HELD_OUT) for lesson in held_out[-MAX_CASES // 2 :]]
    some += [(lesson, Origin.SOURCE) for lesson in taught[-(MAX_CASES - len(some)) :]]
    return [case_of(lesson, origin) for lesson, origin in some]


def case_of(lesson: Lesson, origin: Origin) -> Case:
    fields: dict[str, Any] = {name: lesson.request[name] for name in CASE_FIELDS if name in lesson.request}
    answer = answer_of(lesson)
    for name in LIMITS:
        if isinstance(fields.get(name), int):  # who goes on and on is wrong, and nobody need wait for the end of it
            fields[name] = min(fields[name], len(answer) + SPARE_TOKENS)
    return Case(tuple(lesson.request["messages"]), (answer,), origin, fields)


def schema_of(lesson: Lesson) -> dict[str, Any] | None:
    schema = ChatRequest(lesson.request).json_schema
    return schema if isinstance(schema, dict) and len(orjson.dumps(schema)) < 8192 else None
