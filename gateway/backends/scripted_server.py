"""A script behind a socket, as an OpenAI-compatible upstream."""

from __future__ import annotations

import asyncio

import orjson
from aiohttp import web

from gateway.backends.script import Cut, Head, Script, Send, Wait


def scripted_app(script: Script, *, key: str | None = None) -> web.Application:
    """The script as an OpenAI-compatible upstream over HTTP; with `key`, it asks for it."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if key is not None and request.headers.get("authorization") != f"Bearer {key}":
            return web.json_response({"error": {"message": "wrong key", "type": "invalid_request_error"}}, status=401)
        try:
            body = orjson.loads(await request.read())
        except orjson.JSONDecodeError:
            body = None
        wanted, kinds = ("prompt", str | list) if request.path.endswith("/v1/completions") else ("messages", list)
        if not isinstance(body, dict) or not isinstance(body.get(wanted), kinds):
            return web.json_response({"error": {"message": f"body must be JSON with '{wanted}'"}}, status=400)
        steps = script.play(body)
        response: web.StreamResponse | None = None
        for step in steps:
            if isinstance(step, Head):
                response = web.StreamResponse(status=step.status, headers=dict(step.headers))
                await response.prepare(request)
            elif isinstance(step, Send) and response is not None:
                await response.write(step.data)
            elif isinstance(step, Cut):
                if request.transport is not None:
                    request.transport.abort()
                break
            elif isinstance(step, Wait):
                await asyncio.sleep(step.seconds)
        if response is None:
            return web.Response(status=500)  # nobody gets it: the connection is gone
        return response

    async def models(request: web.Request) -> web.Response:
        entry = {"id": "scripted", "object": "model", "created": 0, "owned_by": "scripted"}
        return web.json_response({"object": "list", "data": [entry]})

    async def health(request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/chat/completions", answer)
    app.router.add_post("/v1/completions", answer)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/health", health)
    return app


async def serve_script(script: Script, host: str, port: int, *, key: str | None = None) -> web.AppRunner:
    """Listen until the runner is cleaned up; `runner.addresses` says where. Raises: OSError if the port is taken."""
    runner = web.AppRunner(scripted_app(script, key=key), access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
