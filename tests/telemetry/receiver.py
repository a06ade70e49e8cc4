"""A collector on a real socket, which understands OTLP over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.backends.script import Script, ScriptSpec
from gateway.backends.scripted_server import scripted_app
from tests.upstream import Upstream

KINDS = {"traces": ExportTraceServiceRequest, "metrics": ExportMetricsServiceRequest}


class Receiver:
    """`status`: what it answers with; `gate`: it answers nobody while this is cleared."""

    def __init__(self) -> None:
        self.status = 200
        self.gate = asyncio.Event()
        self.gate.set()
        self.traces: list[Any] = []
        self.metrics: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.came = asyncio.Event()  # a request, whether or not it is answered
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        raw = await request.read()
        self.came.set()
        await self.gate.wait()
        if self.status == 200:
            message = KINDS[request.match_info["signal"]]()
            message.ParseFromString(raw)
            getattr(self, request.match_info["signal"]).append(message)
            self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return web.Response(status=self.status, content_type="application/x-protobuf")

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for message in self.traces
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def span(self, name: str) -> Any:
        found = [span for span in self.spans if span.name == name]
        assert len(found) == 1, f"{len(found)} of {name} among {[span.name for span in self.spans]}"
        return found[0]

    @property
    def resource(self) -> dict[str, Any]:
        return values(self.traces[0].resource_spans[0].resource.attributes)

    def metric(self, name: str) -> Any:
        """As it was last sent."""
        for scope in self.metrics[-1].resource_metrics[0].scope_metrics:
            for metric in scope.metrics:
                if metric.name == name:
                    return metric
        raise AssertionError(f"no metric {name}")


def values(attributes: Any) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for one in attributes:
        kind = one.value.WhichOneof("value")
        value = getattr(one.value, kind)
        out[one.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return out


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    here = Receiver()
    app = web.Application()
    app.router.add_post("/v1/{signal}", here.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    here.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield here
    finally:
        here.gate.set()
        await runner.cleanup()


class Overheard(Upstream):
    """A scripted upstream; `headers` are those that it was sent."""

    def __init__(self, script: Script, port: int, headers: list[dict[str, str]]) -> None:
        super().__init__(script, port)
        self.headers = headers


@asynccontextmanager
async def overheard(*replies: dict[str, Any]) -> AsyncIterator[Overheard]:
    script, headers = Script(ScriptSpec.model_validate({"replies": list(replies)})), list[dict[str, str]]()

    @web.middleware
    async def note(request: web.Request, handler: Any) -> web.StreamResponse:
        headers.append({name.lower(): value for name, value in request.headers.items()})
        answer: web.StreamResponse = await handler(request)
        return answer

    app = scripted_app(script)
    app.middlewares.append(note)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield Overheard(script, runner.addresses[0][1], headers)
    finally:
        await runner.cleanup()
