"""Jobs that train, one after the other, in the background of a running server."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import GatewayError, InvalidRequest, NotFound
from gateway.store.complaints import Complaints
from gateway.store.training_rows import StoredJob
from gateway.tasks import ended
from gateway.trace import new_id
from gateway.training.adopting import adopt
from gateway.training.pairs import FEWEST, Pair, digest_of, read_pairs
from gateway.training.process import put, train
from gateway.training.settings import Settings, settings_for

if TYPE_CHECKING:
    from gateway.store.database import Database
    from gateway.store.training import TrainingStore

log = logging.getLogger(__name__)
WAITING, RUNNING = ("validating_files", "queued"), "running"
OVER = ("succeeded", "failed", "cancelled")
RETRY_S = 10.0
CALLABLE_WITHIN_S = 120.0  # a new adapter joins its model's server
LOOK_EVERY_S = 5.0  # for jobs of other gateways, where a database is shared
STEP_EVERY_S = 5.0  # between two events of steps
MOST_WAITING = 50  # jobs of one key
UNFIT_FOR_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
Json = dict[str, Any]


@dataclass(frozen=True)
class Trainables:
    """What the configuration of the moment says.

    Args:
        files: of the models that can be trained, by their names in models.yaml.
        names: all models that can be called.
    """

    files: Mapping[str, Path] = field(default_factory=dict)
    names: frozenset[str] = frozenset()


class Trainer:
    """`open` it once there is a database, and `close` it before that is."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._trainables = Trainables()
        self._wake = asyncio.Event()
        self._look_every_s: float | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._at_work: tuple[str, asyncio.Task[None]] | None = None
        self._store: TrainingStore | None = None
        self._complaints = Complaints(log)
        self._cancelled: set[str] = set()
        self.on_submitted = self.look  # or another process's
        self.turn = asyncio.Lock()  # one at a time: two would take the processor from each other

    @property
    def trainables(self) -> Trainables:
        return self._trainables

    @property
    def store(self) -> TrainingStore:
        """Raises: NotFound where there is no database."""
        if self._store is None:
            raise NotFound("this server keeps no files and no training jobs")
        return self._store

    def take(self, trainables: Trainables) -> None:
        """From now on this holds."""
        self._trainables = trainables

    def open(self, database: Database) -> None:
        from gateway.store.training import TrainingStore

        self._store = TrainingStore(database)
        self._look_every_s = LOOK_EVERY_S if database.is_shared else None  # another gateway may have taken a job

    def work(self) -> None:
        """Begin with what is left from before, and go on with what comes."""
        if self._store is not None and not self._tasks:
            self._wake.set()
            self._tasks = [asyncio.create_task(self._keep_training(self._store), name="training")]

    def look(self) -> None:
        """There is a new job."""
        self._wake.set()

    async def close(self) -> None:
        """A job that runs goes on from its last checkpoint when the server is there again."""
        await ended(self._tasks)
        self._tasks = []

    async def submit(
        self,
        key: str | None,
        model: str,
        training_file: str,
        validation_file: str | None = None,
        suffix: str = "",
        said: Mapping[str, Any] | None = None,
        more: Json | None = None,
    ) -> StoredJob:
        """Read the files, and put the job into the queue.

        Args:
            said: settings, see `Settings`.
            more: what the client wants to see again with the job.
        Raises: InvalidRequest, NotFound.
        """
        store = self.store
        self._file_of(model)
        if sum(job.status not in OVER for job in await store.jobs(key)) >= MOST_WAITING:
            raise InvalidRequest(f"{MOST_WAITING} jobs are waiting already", param="training_file")
        pairs = await self._read(store, training_file, key, "training_file")
        if len(pairs) < FEWEST:
            raise InvalidRequest(f"{len(pairs)} examples are too few: {FEWEST} at least", param="training_file")
        if validation_file is not None:
            await self._read(store, validation_file, key, "validation_file")
        settings = settings_for(len(pairs), said)
        id = f"ftjob-{new_id()[-24:]}"
        body = {
            **(more or {}),
            "model": model,
            "training_file": training_file,
            "validation_file": validation_file,
            "name": name_of(suffix, id),
            "settings": settings.as_json(),
            "examples": len(pairs),
        }
        job = StoredJob(id, time.time(), key, "queued", body)
        await store.put_job(job)
        await store.note(id, "Created fine-tuning job: " + id)
        self.on_submitted()
        return job

    async def cancel(self, id: str, key: str | None) -> StoredJob:
        """Raises: NotFound; InvalidRequest for one that is over."""
        store = self.store
        job = await store.job(id, key)
        if job is None:
            raise NotFound(f"there is no job '{id[:64]}'", param="fine_tuning_job_id")
        if job.status in OVER:
            raise InvalidRequest(f"job '{id}' has {job.status} already", param="fine_tuning_job_id")
        if self._at_work is not None and self._at_work[0] == id:
            self._cancelled.add(id)  # the queue does not take it up again before it is written down
            await ended([self._at_work[1]])
            job = await store.job(id, key) or job
            if job.status in OVER:  # it has succeeded, or failed, at this moment
                return job
        try:
            job = await self._over(store, job, "cancelled", "The job was cancelled")
        finally:
            self._cancelled.discard(id)
        shutil.rmtree(self._folder(job), ignore_errors=True)
        return job

    def _file_of(self, model: str) -> Path:
        path = self._trainables.files.get(model)
        if path is None:
            there = ", ".join(f"'{name}'" for name in self._trainables.files) or "none"
            message = f"'{model[:100]}' cannot be trained here; of the models, these can: {there}"
            raise InvalidRequest(message, param="model")
        return path

    async def _read(self, store: TrainingStore, id: str, key: str | None, param: str) -> list[Pair]:
        file = await store.file(id, key, whole=True)
        if file is None or file.content is None:
            raise NotFound(f"there is no file '{id[:64]}'", param=param)
        return await asyncio.to_thread(read_pairs, file.content, param)

    async def _keep_training(self, store: TrainingStore) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look_every_s):
                    await self._wake.wait()
            self._wake.clear()
            try:
                while (job := await self._next(store)) is not None:
                    await self._work_on(store, job)
            except SQLAlchemyError as exc:  # a full disk, a lock: the job is still there
                reason = getattr(exc, "orig", None) or type(exc).__name__
                self._complaints.say(f"training jobs wait, for the database cannot be used: {reason}")
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    async def _work_on(self, store: TrainingStore, job: StoredJob) -> None:
        """Raises: SQLAlchemyError where it cannot be written down what became of it."""
        task = asyncio.create_task(self._run(store, job), name=f"training {job.id}")
        self._at_work = job.id, task
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            await ended([task])
            raise
        finally:
            self._at_work = None
        if not task.cancelled():
            task.result()

    async def _next(self, store: TrainingStore) -> StoredJob | None:
        waiting = [job for job in await store.jobs_with((RUNNING, *WAITING)) if job.id not in self._cancelled]
        return min(waiting, key=lambda job: (job.status != RUNNING, job.created), default=None)

    async def _run(self, store: TrainingStore, job: StoredJob) -> None:
        """To its end, or to its cancellation: then it stays as it is, to be gone on with."""
        try:
            await self._train(store, job)
        except GatewayError as exc:
            await self._over(store, job, "failed", exc.message, {"code": exc.code or "failed", "param": exc.param})
        except SQLAlchemyError:
            raise
        except OSError as exc:
            log.error("training job %s failed: %s", job.id, exc)
            why = f"a file cannot be written: {exc.strerror}"
            await self._over(store, job, "failed", why, {"code": "failed", "param": None})
        except Exception:
            log.exception("training job %s failed", job.id)
            await self._over(store, job, "failed", "internal error", {"code": "failed", "param": None})

    async def _train(self, store: TrainingStore, job: StoredJob) -> None:
        path, folder, body = self._file_of(job.body["model"]), self._folder(job), job.body
        settings = Settings(**body["settings"])
        if job.status != RUNNING or not folder.exists():
            pairs = await self._read(store, body["training_file"], job.key, "training_file")
            if body["validation_file"]:
                held_out = await self._read(store, body["validation_file"], job.key, "validation_file")
            else:
                pairs, held_out = parted(pairs, settings)
            await asyncio.to_thread(put, folder, pairs, held_out)
            known = {"started": time.time(), "trained_on": len(pairs), "digest": digest_of(pairs)}
            job = replace(job, status=RUNNING, body={**body, **known})
            await store.update_job(job)
            await store.note(job.id, "Fine-tuning job started")
        async with self.turn:
            report = await train(path, folder, settings, _Notes(store, job.id))
        data = {"examples": job.body["trained_on"], "digest": job.body.get("digest", "")}
        data |= {"job": job.id, "file": body["training_file"], "key": job.key}
        register = partial(adopt, model=body["model"], name=body["name"], base=path, settings=settings)
        entry = await asyncio.to_thread(register, self._home, folder, data=data, report=report)
        full_name = entry.full_name
        await self.until_callable(full_name)
        await store.note(job.id, f"New fine-tuned model created: {full_name}")
        done = {**job.body, "fine_tuned_model": full_name, "report": report}
        await self._over(store, replace(job, body=done), "succeeded", "The job has successfully completed")

    async def until_callable(self, full_name: str) -> bool:
        """The running server reads the registry, and its model's server is started with the adapter. False where that
        does not come to pass."""
        until = time.monotonic() + CALLABLE_WITHIN_S
        while full_name not in self._trainables.names and time.monotonic() < until:
            await asyncio.sleep(0.1)
        return full_name in self._trainables.names

    async def _over(
        self, store: TrainingStore, job: StoredJob, status: str, message: str, error: Json | None = None
    ) -> StoredJob:
        more: Json = {"finished": time.time()}
        if error is not None:
            more["error"] = {**error, "message": message}
        job = replace(job, status=status, body={**job.body, **more})
        await store.update_job(job)
        await store.note(job.id, message, level="error" if error is not None else "info")
        return job

    def _folder(self, job: StoredJob) -> Path:
        return self._home / "training" / job.id


class _Notes:
    """Writes down what a child tells, and not every step of it."""

    def __init__(self, store: TrainingStore, job: str) -> None:
        self._store, self._job = store, job
        self._told = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, event: Json) -> None:
        kind, now = event["event"], time.monotonic()
        if kind == "step":
            if now - self._told < STEP_EVERY_S and event["step"] < event["steps"]:
                return
            self._told = now
            message = f"Step {event['step']}/{event['steps']}: training loss={event['loss']}"
        elif kind == "epoch":
            loss = event["held_out_loss"]
            message = f"Epoch {event['epoch']} is done" + ("" if loss is None else f": validation loss={loss}")
        else:
            message = f"Training on {event['examples']} examples, {event['tokens']} tokens"
            if event["too_long"]:
                message += f"; {event['too_long']} are too long, and left out"
            if event.get("unwritten"):
                message += f"; {event['unwritten']} cannot be written by the model's chat template, and are left out"
        task = asyncio.create_task(self._store.note(self._job, message, event))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def parted(pairs: list[Pair], settings: Settings) -> tuple[list[Pair], list[Pair]]:
    """(to learn, to measure with), the same for the same seed."""
    count = min(len(pairs) // 2, round(len(pairs) * settings.held_out))
    if not count:
        return pairs, []
    places = set(random.Random(settings.seed).sample(range(len(pairs)), count))
    return [one for n, one in enumerate(pairs) if n not in places], [pairs[n] for n in sorted(places)]


def name_of(suffix: str, id: str) -> str:
    """Of the adapter: what the client calls it, and a part of the job's id so that no two are alike."""
    tidy = UNFIT_FOR_NAMES.sub("-", suffix.strip()).strip("-._")[:40]
    return f"{tidy or 'ft'}-{id[-8:]}"
