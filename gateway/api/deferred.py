"""An ASGI application that is built when it is first asked, or when there is a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.api.asgi import App, Receive, Scope, Send


class Deferred:
    """`build` runs in a thread, once, however many ask and whoever of them leaves; again only where it failed."""

    def __init__(self, build: Callable[[], App]) -> None:
        self._build = build
        self._app: App | None = None
        self._building: asyncio.Task[App] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._app or await self.built())(scope, receive, send)

    async def built(self) -> App:
        if self._building is None:
            self._building = asyncio.create_task(asyncio.to_thread(self._build))
        try:
            self._app = await asyncio.shield(self._building)
        except Exception:
            self._building = None  # the next one tries again
            raise
        return self._app
