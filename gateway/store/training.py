"""Files to train on, jobs that train, and what became of each, step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson
from sqlalchemy import delete, func, insert, select, update

from gateway.errors import InvalidRequest
from gateway.store.database import Database
from gateway.store.tables import FILES, TRAINING_EVENTS, TRAINING_JOBS
from gateway.store.training_rows import Json, StoredEvent, StoredFile, StoredJob

MAX_FILES, MAX_BYTES = 500, 2 << 30  # of one key
MAX_EVENTS = 1000  # of one job: the newest


class TrainingStore:
    """Files and jobs are only there for the key that they came with; None is one too."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock

    async def put_file(self, id: str, key: str | None, purpose: str, filename: str, content: bytes) -> StoredFile:
        """Raises: InvalidRequest where the key has as many as it may."""
        file = StoredFile(id, self._clock(), key, purpose, filename, len(content))
        own = FILES.c.key.is_not_distinct_from(key)
        async with self._database.write() as connection:
            count, size = (
                await connection.execute(select(func.count(), func.coalesce(func.sum(FILES.c.size), 0)).where(own))
            ).one()
            if count >= MAX_FILES or size + len(content) > MAX_BYTES:
                most = f"{MAX_FILES} files, {MAX_BYTES >> 30} GB"
                raise InvalidRequest(f"there are as many files as a key may have ({most}): delete some", param="file")
            row = {name: getattr(file, name) for name in ("id", "created", "key", "purpose", "filename", "size")}
            await connection.execute(insert(FILES).values(**row, content=content))
        return file

    async def file(self, id: str, key: str | None, *, whole: bool = False) -> StoredFile | None:
        found = await self._files(select(*_columns(whole)).where(FILES.c.id == id, _own(FILES, key)))
        return found[0] if found else None

    async def files(self, key: str | None, purpose: str | None = None) -> list[StoredFile]:
        """The newest first."""
        query = select(*_columns(False)).where(_own(FILES, key)).order_by(FILES.c.created.desc(), FILES.c.id)
        return await self._files(query if purpose is None else query.where(FILES.c.purpose == purpose))

    async def delete_file(self, id: str, key: str | None) -> bool:
        """False where there is none."""
        async with self._database.write() as connection:
            gone = await connection.execute(delete(FILES).where(FILES.c.id == id, _own(FILES, key)))
        return gone.rowcount > 0

    async def put_job(self, job: StoredJob) -> None:
        async with self._database.write() as connection:
            await connection.execute(insert(TRAINING_JOBS).values(_row(job)))

    async def update_job(self, job: StoredJob) -> None:
        async with self._database.write() as connection:
            await connection.execute(update(TRAINING_JOBS).where(TRAINING_JOBS.c.id == job.id).values(_row(job)))

    async def job(self, id: str, key: str | None) -> StoredJob | None:
        found = await self._jobs(select(TRAINING_JOBS).where(TRAINING_JOBS.c.id == id, _own(TRAINING_JOBS, key)))
        return found[0] if found else None

    async def jobs(self, key: str | None) -> list[StoredJob]:
        """The newest first."""
        created = TRAINING_JOBS.c.created
        return await self._jobs(
            select(TRAINING_JOBS).where(_own(TRAINING_JOBS, key)).order_by(created.desc(), TRAINING_JOBS.c.id.desc())
        )

    async def jobs_with(self, statuses: Sequence[str]) -> list[StoredJob]:
        """Of all keys, the oldest first."""
        query = select(TRAINING_JOBS).where(TRAINING_JOBS.c.status.in_(statuses))
        return await self._jobs(query.order_by(TRAINING_JOBS.c.created, TRAINING_JOBS.c.id))

    async def note(self, job: str, message: str, data: Json | None = None, level: str = "info") -> None:
        row = {"job": job, "created": self._clock(), "level": level, "message": message}
        events = TRAINING_EVENTS
        async with self._database.write() as connection:
            await connection.execute(insert(events).values(**row, data=orjson.dumps(data or {}).decode()))
            newest = select(events.c.id).where(events.c.job == job).order_by(events.c.id.desc()).limit(MAX_EVENTS)
            await connection.execute(delete(events).where(events.c.job == job, events.c.id.not_in(newest)))

    async def events(self, job: str) -> list[StoredEvent]:
        """The newest first."""
        query = select(TRAINING_EVENTS).where(TRAINING_EVENTS.c.job == job).order_by(TRAINING_EVENTS.c.id.desc())
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [StoredEvent(**{**row, "data": orjson.loads(row["data"])}) for row in rows]

    async def purge(self, key: str | None) -> None:
        """All files and jobs of a key, and what became of those."""
        jobs = select(TRAINING_JOBS.c.id).where(_own(TRAINING_JOBS, key))
        async with self._database.write() as connection:
            await connection.execute(delete(TRAINING_EVENTS).where(TRAINING_EVENTS.c.job.in_(jobs)))
            await connection.execute(delete(TRAINING_JOBS).where(_own(TRAINING_JOBS, key)))
            await connection.execute(delete(FILES).where(_own(FILES, key)))

    async def _files(self, query: Any) -> list[StoredFile]:
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [StoredFile(**row) for row in rows]

    async def _jobs(self, query: Any) -> list[StoredJob]:
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [StoredJob(**{**row, "body": orjson.loads(row["body"])}) for row in rows]


def _own(table: Any, key: str | None) -> Any:
    return table.c.key.is_not_distinct_from(key)


def _columns(whole: bool) -> list[Any]:
    return [column for column in FILES.c if whole or column is not FILES.c.content]


def _row(job: StoredJob) -> Json:
    row = {name: getattr(job, name) for name in ("id", "created", "key", "status")}
    return {**row, "body": orjson.dumps(job.body).decode()}
