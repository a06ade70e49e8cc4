"""The smaller /v1 routes: models, route/explain, quality, feedback."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from gateway.api.body import read_body
from gateway.api.completions import parse_any
from gateway.api.entrance import key_of
from gateway.api.messages_routes import anthropic_model, anthropic_models
from gateway.api.openai import parse_json
from gateway.api.residency import memory_of, residency_of
from gateway.chat import Json
from gateway.errors import InvalidRequest, NotFound, UnknownModel
from gateway.explain import explain
from gateway.live import Live
from gateway.runtime import Runtime
from gateway.training.registry import read_registry, remove

OWNER = "onion-gateway"
READS = ["GET", "HEAD"]  # some look with HEAD whether anybody is there


def v1(live: Live, runtime: Runtime) -> APIRouter:
    router = APIRouter(prefix="/v1")
    started = int(time.time())

    def entries(request: Request) -> list[Json]:
        gateway = live.seen_by(live.gateway, key_of(request.scope["gateway"]))
        names = list(gateway.policies)
        listed: list[Json] = [
            {"id": name, "gateway": {"kind": "policy", "policy": gateway.policies[name].name}} for name in names
        ]
        for model in gateway.models.values():
            facts: Json = {"kind": "model", "engine": model.engine, "active": model.responder is not None}
            if model.why:
                facts["why"] = model.why
            if model.responder is not None and (residency := residency_of(gateway, runtime, model)) is not None:
                facts["residency"] = residency
            listed.append({"id": model.name, "gateway": {**facts, **model.card}})
        return [{**entry, "object": "model", "created": started, "owned_by": OWNER} for entry in listed]

    @router.api_route("/models", methods=READS)
    async def models(request: Request) -> JSONResponse:
        """Policies with their aliases and active models: what a client may send as `model`."""
        listed = entries(request)
        active = [entry for entry in listed if entry["gateway"].get("active", True)]
        if _is_anthropics(request):
            return JSONResponse(anthropic_models(active))
        inactive = [entry for entry in listed if not entry["gateway"].get("active", True)]
        about = {"memory": memory_of(runtime), "inactive": inactive}
        return JSONResponse({"object": "list", "data": active, "gateway": about})

    @router.api_route("/models/{name:path}", methods=READS)
    async def model(name: str, request: Request) -> JSONResponse:
        for entry in entries(request):
            if entry["id"] == name:
                return JSONResponse(anthropic_model(entry) if _is_anthropics(request) else entry)
        raise UnknownModel(f"no model or policy is called '{name[:100]}'")

    @router.delete("/models/{name:path}")
    async def delete(name: str, request: Request) -> JSONResponse:
        """An adapter that this key has had trained; models.yaml's models stay."""
        entry = read_registry(runtime.home).get(name)
        if entry is None or entry.data.get("key") != request.scope["gateway"]["key"]:
            if name in live.gateway.models:
                raise InvalidRequest(f"'{name[:100]}' is no model that this key has had trained", param="model")
            raise UnknownModel(f"no model is called '{name[:100]}'")
        await asyncio.to_thread(remove, runtime.home, name)
        return JSONResponse({"id": name, "object": "model", "deleted": True})

    @router.post("/route/explain")
    async def route(request: Request) -> JSONResponse:
        """The signals and the route of a chat request, or of a prompt; nothing is generated."""
        caller = request.scope["gateway"]
        raw = await read_body(request.scope, request.receive, live.body_limit_bytes)
        with live.use(key_of(caller)) as gateway:
            return JSONResponse(await explain(gateway, parse_any(raw, caller["headers"], caller["key"])))

    @router.api_route("/quality", methods=READS)
    async def quality() -> JSONResponse:
        """Each promise of a policy and how far it has come."""
        return JSONResponse({"object": "list", "data": runtime.promises.report()})

    @router.post("/feedback")
    async def feedback(request: Request) -> JSONResponse:
        """`{"trace": id, "value": true | 0.8 | "text", "metric"?, "comment"?}`: a rating, kept with the trace. With
        `"demonstration": "text" | message` in place of a value, or beside it: what the answer should have been."""
        body = parse_json(await read_body(request.scope, request.receive, live.body_limit_bytes))
        trace_id = _trace_id(body)
        shown = _demonstration(body)
        value = body.get("value", False if shown is not None else None)
        if not isinstance(value, bool | int | float | str):
            raise InvalidRequest("'value' must be true or false, a number, or text", param="value")
        metric, comment = body.get("metric", "rating"), body.get("comment")
        if not isinstance(metric, str):
            raise InvalidRequest("'metric' must be text", param="metric")
        if comment is not None and not isinstance(comment, str):
            raise InvalidRequest("'comment' must be text", param="comment")
        if runtime.journal is None or runtime.feedback is None:
            raise NotFound("this server keeps no journal")
        row = await runtime.journal.find(trace_id)
        if row is None:
            raise NotFound(f"no request has the trace '{trace_id}'", param="trace")
        key = request.scope["gateway"]["key"]
        if shown is not None and row.key != key:  # it would speak for somebody else
            raise NotFound(f"no request of this key has the trace '{trace_id}'", param="trace")
        number = await runtime.feedback.add(trace_id, metric, value, comment, key)
        tree = orjson.loads(row.trace)
        runtime.profiles.rate(tree, value)
        told = {"id": number, "object": "feedback", "trace": trace_id, "metric": metric, "value": value}
        if shown is None:
            await runtime.bookcase.rate(trace_id, tree, value)
        else:
            told["demonstration"] = await _corrected(runtime, trace_id, shown)
        return JSONResponse(told, 201)

    return router


def _demonstration(body: Json) -> Json | None:
    """The answer that somebody shows, as a message. Raises: InvalidRequest."""
    shown = body.get("demonstration")
    if shown is None:
        return None
    message = {"role": "assistant", "content": shown} if isinstance(shown, str) else shown
    is_one = isinstance(message, dict) and message.get("role", "assistant") == "assistant"
    content, calls = (message.get("content"), message.get("tool_calls")) if is_one else (None, None)
    if not (isinstance(content, str) and content.strip()) and not (isinstance(calls, list) and calls):
        why = "'demonstration' must be the right answer: text, or a message of the assistant"
        raise InvalidRequest(why, param="demonstration")
    return {"role": "assistant", "content": content, **({"tool_calls": calls} if calls else {})}


async def _corrected(runtime: Runtime, trace_id: str, shown: Json) -> Json:
    """What became of a demonstration. Raises: InvalidRequest where nothing may be learned from it."""
    lesson, shard = await runtime.bookcase.correct(trace_id, shown)
    if lesson is None:
        why = "the words of this request are not kept: its policy has no 'learn: true', or it was long ago"
        raise InvalidRequest(why, param="demonstration")
    return {"kept": True, "shard": shard.id if shard is not None and not shard.needs_review else None}


def _is_anthropics(request: Request) -> bool:
    """Its clients ask for models at the same path."""
    return "anthropic-version" in request.scope["gateway"]["headers"]


def _trace_id(body: dict[str, Any]) -> str:
    """The trace that is meant: its id, or the id of the completion."""
    named = "trace" if body.get("trace") else "id" if body.get("id") else "trace"
    given = body.get(named)
    if not isinstance(given, str):
        raise InvalidRequest("'trace' must be the id from x-gateway-trace, or the id of an answer", param=named)
    trace_id = given.removeprefix("chatcmpl-").removeprefix("cmpl-").removeprefix("resp_").removeprefix("msg_")
    if len(trace_id) != 32 or not set(trace_id) <= set("0123456789abcdef"):
        raise InvalidRequest(f"'{named}' is neither a trace nor the id of an answer", param=named)
    return trace_id
