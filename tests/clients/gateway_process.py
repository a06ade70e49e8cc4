"""`gateway serve` in a process of its own, in front of a scripted upstream that remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from gateway.backends.script import Script, ScriptSpec, Step
from gateway.backends.scripted_server import scripted_app
from tests.test_serve import run, start_serving, stop

Json = dict[str, Any]
Replies = Mapping[str, Sequence[Json]]
CONTEXT = 131072  # tokens, of every model
WAIT_S = 10


class RememberingScript(Script):
    """Args:
    replies: by the name of the model that gives them.
    """

    def __init__(self, replies: Replies) -> None:
        listed = [
            {**reply, "when": {**reply.get("when", {}), "model": model}}
            for model, some in replies.items()
            for reply in some
        ]
        super().__init__(ScriptSpec.model_validate({"replies": listed}))
        self.asked: dict[str, list[Json]] = defaultdict(list)
        self.began: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.left: dict[str, asyncio.Event] = defaultdict(asyncio.Event)  # set once a reply was not heard to its end

    def play(self, body: Json) -> Iterator[Step]:
        model = body["model"]
        self.asked[model].append(body)
        self.began[model].set()
        try:
            yield from super().play(body)
        except GeneratorExit:
            self.left[model].set()
            raise


@dataclass(frozen=True)
class Served:
    """`asked`: the bodies that a model was sent, oldest first. `key`: without one it is open."""

    url: str
    upstream_url: str
    asked: Mapping[str, Sequence[Json]]
    key: str | None = None


@contextmanager
def serving(
    folder: Path, replies: Replies, *, models_home: Path | None = None, wants_key: bool = False
) -> Iterator[Served]:
    """Each key of `replies` is a model. `models_home` has files of local models that need not be fetched again."""
    script = RememberingScript(replies)
    home = folder / "home"
    home.mkdir()
    if models_home is not None:
        (home / "models").symlink_to(models_home / "models")
    with _listening(script) as upstream_url:
        common = {"engine": "openai", "base_url": f"{upstream_url}/v1", "context": CONTEXT}
        models = {name: {**common, "model": name} for name in replies}
        (folder / "models.yaml").write_text(yaml.safe_dump({"models": models}))
        (folder / "policies").mkdir()
        create = ("keys", "create", "--name", "me", "--json")
        key = json.loads(run(*create, home=home, folder=folder))["key"] if wants_key else None
        served = start_serving(folder, home)
        try:
            yield Served(served.url, upstream_url, script.asked, key)
        finally:
            assert stop(served) == 0


@contextmanager
def _listening(script: RememberingScript) -> Iterator[str]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        runner = asyncio.run_coroutine_threadsafe(_listen(script), loop).result(10)
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _listen(script: RememberingScript) -> web.AppRunner:
    async def asked(request: web.Request) -> web.Response:
        return web.json_response(script.asked[request.match_info["model"]])

    def once(events: Mapping[str, asyncio.Event]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def wait(request: web.Request) -> web.Response:
            async with asyncio.timeout(WAIT_S):
                await events[request.match_info["model"]].wait()
            return web.json_response(True)

        return wait

    app = scripted_app(script)
    app.router.add_get("/asked/{model}", asked)
    app.router.add_get("/began/{model}", once(script.began))
    app.router.add_get("/left/{model}", once(script.left))
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner
