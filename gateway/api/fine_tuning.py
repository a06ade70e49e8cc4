"""`/v1/fine_tuning/jobs`, as OpenAI has them: adapters of models that run here, trained on a file of examples."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from gateway.api.body import read_body
from gateway.api.openai import parse_json
from gateway.api.pages import page_of
from gateway.chat import Json
from gateway.errors import InvalidRequest, NotFound
from gateway.live import Live
from gateway.runtime import Runtime
from gateway.store.training_rows import StoredEvent, StoredJob
from gateway.training.jobs import OVER
from gateway.training.settings import Settings

MOST = 100
ORGANIZATION = "onion-gateway"
EXPECTED = "expected to be like {'n_epochs': 3, 'batch_size': 8, 'learning_rate_multiplier': 1}"
SETTINGS = {"n_epochs": "epochs", "batch_size": "batch"}  # OpenAI's names of ours


def fine_tuning(live: Live, runtime: Runtime) -> APIRouter:
    router = APIRouter(prefix="/v1/fine_tuning/jobs")
    trainer = runtime.trainer

    def key_of(request: Request) -> str | None:
        key: str | None = request.scope["gateway"]["key"]
        return key

    async def own(request: Request, id: str) -> StoredJob:
        job = await trainer.store.job(id, key_of(request))
        if job is None:
            raise NotFound(f"there is no job '{id[:64]}'", param="fine_tuning_job_id")
        return job

    @router.post("")
    async def create(request: Request) -> JSONResponse:
        body = parse_json(await read_body(request.scope, request.receive, live.body_limit_bytes))
        for name in ("model", "training_file"):
            if not isinstance(body.get(name), str) or not body[name]:
                raise InvalidRequest(f"'{name}' is missing", param=name)
        for name in ("validation_file", "suffix"):
            if body.get(name) is not None and not isinstance(body[name], str):
                raise InvalidRequest(f"'{name}' must be text", param=name)
        if body.get("integrations"):
            raise InvalidRequest("there are no integrations here", param="integrations")
        metadata = body.get("metadata")
        if metadata is not None and not isinstance(metadata, dict):
            raise InvalidRequest("'metadata' must be an object", param="metadata")
        job = await trainer.submit(
            key_of(request),
            body["model"],
            body["training_file"],
            body.get("validation_file"),
            body.get("suffix") or "",
            _settings_in(body),
            {"metadata": metadata},
        )
        return JSONResponse(_told(job))

    @router.get("")
    async def listed(request: Request, after: str | None = None, limit: int = 20) -> JSONResponse:
        jobs = [_told(job) for job in await trainer.store.jobs(key_of(request))]
        wanted = {
            name[len("metadata[") : -1]: value
            for name, value in request.query_params.items()
            if name.startswith("metadata[") and name.endswith("]")
        }
        if wanted:
            jobs = [job for job in jobs if wanted.items() <= (job["metadata"] or {}).items()]
        return JSONResponse(page_of(jobs, after, limit, MOST))

    @router.get("/{id}")
    async def retrieve(request: Request, id: str) -> JSONResponse:
        return JSONResponse(_told(await own(request, id)))

    @router.post("/{id}/cancel")
    async def cancel(request: Request, id: str) -> JSONResponse:
        return JSONResponse(_told(await trainer.cancel(id, key_of(request))))

    @router.get("/{id}/events")
    async def events(request: Request, id: str, after: str | None = None, limit: int = 20) -> JSONResponse:
        job = await own(request, id)
        found = [_event(event) for event in await trainer.store.events(job.id)]
        return JSONResponse(page_of(found, after, limit, MOST))

    @router.get("/{id}/checkpoints")
    async def checkpoints(request: Request, id: str, after: str | None = None, limit: int = 10) -> JSONResponse:
        """The one that is kept: the weights that did best on what was held out."""
        job = await own(request, id)
        return JSONResponse(page_of(_checkpoints(job), after, limit, MOST))

    return router


def _settings_in(body: Json) -> dict[str, Any]:
    """Ours, by what OpenAI calls them. Raises: InvalidRequest."""
    method = body.get("method") or {}
    kind = method.get("type", "supervised") if isinstance(method, dict) else None
    if kind != "supervised":
        raise InvalidRequest("only 'supervised' training is done here", param="method.type")
    said = (method.get("supervised") or {}).get("hyperparameters") or body.get("hyperparameters") or {}
    if not isinstance(said, dict):
        raise InvalidRequest(f"'hyperparameters' is {EXPECTED}", param="hyperparameters")
    found: dict[str, Any] = {}
    for name, value in said.items():
        if value == "auto":
            continue
        if name in SETTINGS:
            found[SETTINGS[name]] = value
        elif name == "learning_rate_multiplier":
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 100:
                raise InvalidRequest("'learning_rate_multiplier' must be a number above 0", param=name)
            found["learning_rate"] = Settings().learning_rate * value
        else:
            raise InvalidRequest(f"there is no hyperparameter '{str(name)[:40]}'; it is {EXPECTED}", param=name)
    if body.get("seed") is not None:
        found["seed"] = body["seed"]
    own = body.get("gateway")
    if own is not None and not isinstance(own, dict):
        raise InvalidRequest("'gateway' must be an object of settings, such as {'rank': 8}", param="gateway")
    return {**found, **(own or {})}


def _told(job: StoredJob) -> Json:
    """As OpenAI's clients know it."""
    body, settings = job.body, job.body["settings"]
    hyperparameters = {
        "n_epochs": settings["epochs"],
        "batch_size": settings["batch"],
        "learning_rate_multiplier": round(settings["learning_rate"] / Settings().learning_rate, 4),
    }
    report = body.get("report") or {}
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "model": body["model"],
        "created_at": int(job.created),
        "finished_at": int(body["finished"]) if job.status in OVER else None,
        "estimated_finish": None,
        "fine_tuned_model": body.get("fine_tuned_model"),
        "organization_id": ORGANIZATION,
        "result_files": [],
        "status": job.status,
        "training_file": body["training_file"],
        "validation_file": body["validation_file"],
        "trained_tokens": report.get("trained_tokens"),
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "seed": settings["seed"],
        "error": body.get("error"),
        "integrations": [],
        "metadata": body.get("metadata"),
        "gateway": {"settings": settings, "examples": body["examples"], "report": report},
    }


def _event(event: StoredEvent) -> Json:
    is_step = event.data.get("event") == "step"
    data = event.data
    metrics = {"step": data["step"], "train_loss": data["loss"], "total_steps": data["steps"]} if is_step else {}
    return {
        "id": f"ftevent-{event.id}",
        "object": "fine_tuning.job.event",
        "created_at": int(event.created),
        "level": event.level,
        "message": event.message,
        "type": "metrics" if is_step else "message",
        "data": {**data, **metrics},
    }


def _checkpoints(job: StoredJob) -> list[Json]:
    report = job.body.get("report")
    if not report or not job.body.get("fine_tuned_model"):
        return []
    loss = report.get("held_out_loss")
    return [
        {
            "id": f"ftckpt-{job.id.removeprefix('ftjob-')}",
            "object": "fine_tuning.job.checkpoint",
            "created_at": int(job.body["finished"]),
            "fine_tuned_model_checkpoint": job.body["fine_tuned_model"],
            "fine_tuning_job_id": job.id,
            "step_number": report["steps"],
            "metrics": {"step": report["steps"], **({} if loss is None else {"full_valid_loss": loss})},
        }
    ]
