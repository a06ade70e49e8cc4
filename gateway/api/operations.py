"""For those who run it: /healthz, /readyz, /metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import orjson

from gateway import __version__
from gateway.api.asgi import App, RawHeaders, Receive, Scope, Send, send_as_one, send_whole
from gateway.chat import Json
from gateway.errors import MethodNotAllowed
from gateway.live import Live
from gateway.runtime import Runtime

METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = b"application/openmetrics-text; version=1.0.0; charset=utf-8"


def operations(live: Live, runtime: Runtime) -> dict[str, App]:
    """By path."""

    def healthz(scope: Scope, send: Send) -> Awaitable[None]:
        """Alive: the process answers. `config` says whether the files, as they are now, are what is served."""
        config: Json = {"status": "current", "loaded_at": round(live.loaded_at, 3)}
        if live.is_loading:
            config["status"] = "loading"
        elif live.stale_why is not None:
            config |= {"status": "stale", "why": live.stale_why}
        told: Json = {"status": "ok", "version": __version__, "config": config}
        if live.workers is not None:
            told["workers"] = live.workers
        return send_whole(send, 200, [], orjson.dumps(told))

    def readyz(scope: Scope, send: Send) -> Awaitable[None]:
        """200 once every always-on model answers, at once where there is none; 503 again once the server stops."""
        models = {name: state.stage for name, state in runtime.pool.states().items()}
        is_ready = runtime.pool.is_ready and not live.is_draining
        status = "ready" if is_ready else "stopping" if live.is_draining else "starting"
        headers: RawHeaders = [] if is_ready else [(b"retry-after", b"1")]
        return send_whole(send, 200 if is_ready else 503, headers, orjson.dumps({"status": status, "models": models}))

    async def metrics(scope: Scope, send: Send) -> None:
        as_openmetrics = "application/openmetrics-text" in scope["gateway"]["headers"].get("accept", "")
        text = await runtime.metrics_text(as_openmetrics=as_openmetrics)
        kind = OPENMETRICS_TYPE if as_openmetrics else METRICS_TYPE
        headers = [(b"content-length", b"%d" % len(text)), (b"content-type", kind)]
        await send_as_one(send, 200, headers, text)

    return {"/healthz": _read(healthz), "/readyz": _read(readyz), "/metrics": _read(metrics)}


def _read(answer: Callable[[Scope, Send], Awaitable[None]]) -> App:
    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            where = f"{scope['method']} {scope['path']}"
            raise MethodNotAllowed(f"{where}: this path takes another method", headers={"allow": "GET, HEAD"})
        await answer(scope, send)

    return endpoint
