"""For those who run it: /healthz, /readyz, /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from gateway import __version__
from gateway.chat import Json
from gateway.live import Live
from gateway.runtime import Runtime


def operations(live: Live, runtime: Runtime) -> APIRouter:
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> JSONResponse:
        """Alive: the process answers. `config` says whether the files, as they are now, are what is served."""
        config: Json = {"status": "current", "loaded_at": round(live.loaded_at, 3)}
        if live.is_loading:
            config["status"] = "loading"
        elif live.stale_why is not None:
            config |= {"status": "stale", "why": live.stale_why}
        return JSONResponse({"status": "ok", "version": __version__, "config": config})

    @router.get("/readyz")
    async def readyz() -> JSONResponse:
        """200 once every always-on model answers, at once where there is none; 503 again once the server stops."""
        models = {name: state.state for name, state in runtime.pool.states().items()}
        is_ready = runtime.pool.is_ready and not live.is_draining
        status = "ready" if is_ready else "stopping" if live.is_draining else "starting"
        headers = None if is_ready else {"retry-after": "1"}
        return JSONResponse({"status": status, "models": models}, 200 if is_ready else 503, headers)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(runtime.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
