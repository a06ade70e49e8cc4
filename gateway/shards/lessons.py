"""Requests and answers that are kept to learn from, where a policy says `learn: true`: those that a small model failed
and a larger one answered, those that it was asked about in an audit, and those that somebody rated. Nothing else of
what users write is kept."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import orjson
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from gateway.chat import Answer, ChatRequest, Json
from gateway.shards import OPERATOR
from gateway.shards.shelf import user_of
from gateway.store.database import Database
from gateway.store.tables import LESSONS
from gateway.store.write_behind import Pace, WriteBehind
from gateway.trace import RACED, RequestTrace

FIELDS = ("messages", "max_tokens", "max_completion_tokens", "response_format", "tools", "tool_choice")
MAX_BYTES = 64 * 1024  # of a request
MAX_ROWS = 20_000
AGE_S = 30 * 86_400.0
PERSON = ""
NOBODY: Mapping[str, str] = MappingProxyType({})
RATEABLE = 500  # answers remembered, for a rating to come
PACE = Pace(max_queued=1000, flush_every_s=1.0, prune_every_s=3600.0, prune_every_rows=1000)


@dataclass(frozen=True)
class Lesson:
    """Args: `failed`: {model: why it was left, `audit` where it was not}; `request`: what the client sent, without
    shards; `answer`: the message. `model`: who answered; `PERSON` where somebody has shown how."""

    id: str
    created: float
    tenant: str
    user: str | None
    policy: str
    model: str
    failed: Mapping[str, str]
    request: Json
    answer: Json
    used: bool = False

    @property
    def is_demonstrated(self) -> bool:
        """By a person, who has said what the answer should have been."""
        return self.model == PERSON


class Lessons:
    """Use it in one event loop, between `start` and `close`."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock
        self._writer = WriteBehind[Lesson]("what is learned from", "lessons", self._write, self._prune, PACE)
        self._rateable: OrderedDict[str, Lesson] = OrderedDict()

    async def start(self) -> None:
        self._writer.start()

    async def close(self) -> None:
        await self._writer.close()

    async def flush(self) -> None:
        await self._writer.flush()

    def note(
        self,
        policy: str,
        request: ChatRequest,
        answer: Answer,
        trace: RequestTrace,
        failed: Mapping[str, str] = NOBODY,
    ) -> None:
        """Keep it if it went on to another model; else remember it for a while, should somebody rate it.

        Args: `failed`: {model: why}, of what this request's own trace does not tell."""
        lesson = self._lesson(policy, request, answer, trace, failed)
        if lesson is None:
            return
        if lesson.failed and not answer.checks_failed:
            self._writer.add(lesson)
        else:
            self._rateable[lesson.id] = lesson
            if len(self._rateable) > RATEABLE:
                self._rateable.popitem(last=False)

    async def rate(self, trace_id: str, *, is_good: bool) -> None:
        """A good one is kept; a bad one is no lesson, and none any more. Raises: SQLAlchemyError."""
        lesson = self._rateable.pop(trace_id, None)
        if is_good:
            if lesson is not None:
                self._writer.add(lesson)
            return
        await self._writer.flush()
        async with self._database.write() as connection:
            own = (LESSONS.c.id == trace_id) & (LESSONS.c.model != PERSON)
            await connection.execute(delete(LESSONS).where(own))

    async def correct(self, trace_id: str, answer: Json) -> Lesson | None:
        """What a person says the answer should have been. Returns the lesson that it is from now on; None where the
        request's words are not kept. Raises: SQLAlchemyError."""
        await self._writer.flush()
        async with self._database.read() as connection:
            rows = await connection.execute(select(LESSONS).where(LESSONS.c.id == trace_id))
            row = rows.mappings().first()
        lesson = _lesson(dict(row)) if row is not None else self._rateable.pop(trace_id, None)
        if lesson is None:
            return None
        failed = {**lesson.failed, **({} if lesson.is_demonstrated else {lesson.model: "feedback"})}
        lesson = replace(lesson, model=PERSON, answer=answer, failed=failed, created=self._clock())
        async with self._database.write() as connection:
            await connection.execute(delete(LESSONS).where(LESSONS.c.id == trace_id))
            await connection.execute(insert(LESSONS).values(_row(lesson)))
        return lesson

    def _lesson(
        self, policy: str, request: ChatRequest, answer: Answer, trace: RequestTrace, failed: Mapping[str, str]
    ) -> Lesson | None:
        if not may_be_kept(request):
            return None
        choices = answer.body.get("choices") or []
        if len(choices) != 1 or choices[0].get("finish_reason") not in ("stop", "tool_calls"):
            return None
        message = choices[0].get("message") or {}
        kept = {name: message[name] for name in ("role", "content", "tool_calls") if message.get(name) is not None}
        asked = {name: request.body[name] for name in FIELDS if request.body.get(name) is not None}
        try:
            if len(orjson.dumps([asked, kept])) > MAX_BYTES:
                return None
        except TypeError:  # half a surrogate pair, a number without end: no database takes it
            return None
        left = {
            hop.name: hop.left for hop in trace.models() if hop.left not in (None, RACED) and hop.name != answer.model
        }
        tenant, user = request.owner or OPERATOR, user_of(request)
        return Lesson(trace.id, self._clock(), tenant, user, policy, answer.model, {**failed, **left}, asked, kept)

    async def find(self, *, after: float = 0.0, limit: int = 2000, is_used: bool | None = None) -> list[Lesson]:
        query = select(LESSONS).where(LESSONS.c.created > after)
        if is_used is not None:
            query = query.where(LESSONS.c.used == is_used)
        async with self._database.read() as connection:
            rows = (await connection.execute(query.order_by(LESSONS.c.created).limit(limit))).mappings().all()
        return [_lesson(dict(row)) for row in rows]

    async def use(self, ids: Sequence[str]) -> None:
        async with self._database.write() as connection:
            await connection.execute(update(LESSONS).where(LESSONS.c.id.in_(ids)).values(used=True))

    async def purge(self, *, tenant: str | None = None, user: str | None = None) -> int:
        query = delete(LESSONS)
        if tenant is not None:
            query = query.where(LESSONS.c.tenant == tenant)
        if user is not None:
            query = query.where(LESSONS.c.user == user)
        self._rateable = OrderedDict(
            (id, one)
            for id, one in self._rateable.items()
            if (tenant is not None and one.tenant != tenant) or (user is not None and one.user != user)
        )
        async with self._database.write() as connection:
            return (await connection.execute(query)).rowcount

    async def newest(self) -> tuple[int, float]:
        """How many there are, and when the last one came: another answer, other lessons."""
        query = select(func.count(), func.coalesce(func.max(LESSONS.c.created), 0.0))
        async with self._database.read() as connection:
            count, created = (await connection.execute(query)).one()
        return int(count), float(created)

    async def count(self) -> int:
        return (await self.newest())[0]

    async def _write(self, lessons: Sequence[Lesson]) -> None:
        for lesson in lessons:
            try:
                async with self._database.write() as connection:
                    await connection.execute(insert(LESSONS).values(_row(lesson)))
            except IntegrityError:
                pass  # it is there: an earlier try was cut off after its commit

    async def _prune(self) -> None:
        newest = select(LESSONS.c.id).order_by(LESSONS.c.created.desc()).limit(MAX_ROWS)
        async with self._database.write() as connection:
            await connection.execute(delete(LESSONS).where(LESSONS.c.created < self._clock() - AGE_S))
            if (await connection.execute(select(func.count()).select_from(LESSONS))).scalar_one() > MAX_ROWS:
                await connection.execute(delete(LESSONS).where(LESSONS.c.id.not_in(newest)))


def may_be_kept(request: ChatRequest) -> bool:
    """Not where tools or retrieved texts have spoken: those are nobody's own words."""
    if request.is_prompt or request.media or request.body.get("documents"):
        return False
    return all(message.get("role") in ("system", "developer", "user", "assistant") for message in request.messages)


def _row(lesson: Lesson) -> dict[str, Any]:
    row = {column.name: getattr(lesson, column.name) for column in LESSONS.columns}
    return row | {name: orjson.dumps(row[name]).decode() for name in ("failed", "request", "answer")}


def _lesson(row: dict[str, Any]) -> Lesson:
    return Lesson(**row | {name: orjson.loads(row[name]) for name in ("failed", "request", "answer")})
