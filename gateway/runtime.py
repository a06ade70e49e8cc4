"""What outlives a reload: connections, running engines, the database and what is written to it, the counters."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.backends import litellm
from gateway.backends.counting import decoder
from gateway.conversations import Conversations
from gateway.embedding.minilm import MiniLM
from gateway.engines import Site
from gateway.engines.pool import Pool
from gateway.errors import GatewayError
from gateway.telemetry.metrics import Metrics
from gateway.trace import RequestTrace
from gateway.transport import HttpClient
from gateway.transport.client import PooledClient

if TYPE_CHECKING:
    from gateway.access.keys import KeyRing
    from gateway.store.database import Database
    from gateway.store.feedback import Feedback
    from gateway.store.journal import Journal
    from gateway.store.responses import ResponseStore


def gateway_home() -> Path:
    """Where models, database, logs and learned numbers live: $GATEWAY_HOME or ~/.local/share/onion-gateway."""
    try:
        return Path(os.environ.get("GATEWAY_HOME") or "~/.local/share/onion-gateway").expanduser()
    except RuntimeError:  # a user of a number only, as in containers
        raise GatewayError(
            "this user has no home directory: set GATEWAY_HOME to a folder for models and data"
        ) from None


class Runtime:
    """Made before the configuration is built; `start` starts the engines that were added and opens the database."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.client: HttpClient = PooledClient()
        self.pool = Pool(Site(home / "logs", self.client))
        self.metrics = Metrics(self._gauges)
        self.conversations = Conversations()
        self.minilm = MiniLM(home, decoder)
        self.database: Database | None = None
        self.journal: Journal | None = None
        self.feedback: Feedback | None = None
        self.responses: ResponseStore | None = None
        self.keys: KeyRing | None = None

    async def start(self, *, journal_age_days: float = 30, journal_size_mb: float = 512) -> None:
        """Raises: GatewayError if the database cannot be opened."""
        await self.pool.start()
        await asyncio.sleep(0)  # their processes load while this one imports what it still needs, half a second of it
        from gateway.access.keys import KeyRing
        from gateway.store.database import open_database
        from gateway.store.feedback import Feedback
        from gateway.store.journal import Journal
        from gateway.store.responses import ResponseStore

        self.database = await open_database(self.home)
        responses = self.responses = ResponseStore(self.database)
        await responses.start()
        self.journal = Journal(
            self.database,
            max_age_days=journal_age_days,
            max_size_mb=journal_size_mb,
            others_bytes=lambda: responses.size_bytes,
        )
        await self.journal.start()
        self.feedback = Feedback(self.database)
        self.keys = KeyRing(self.database)
        await self.keys.start()

    def limit_journal(self, *, journal_age_days: float, journal_size_mb: float) -> None:
        if self.journal is not None:
            self.journal.limit(journal_age_days, journal_size_mb)

    async def close(self) -> None:
        await self.pool.close()
        await self.client.close()
        await litellm.close()
        self.minilm.close()
        if self.keys is not None:
            await self.keys.close()
        if self.journal is not None:
            await self.journal.close()
        if self.database is not None:
            await self.database.close()

    def record(self, trace: RequestTrace) -> None:
        """Count and journal a finished request; neither waits for anything."""
        self.metrics.record(trace)
        if self.journal is not None:
            self.journal.record(trace)

    def _gauges(self) -> Mapping[str, tuple[str, float]]:
        gauges = {"gateway_ready": ("1 when every always-on model answers.", float(self.pool.is_ready))}
        if self.journal is not None:
            gauges["gateway_journal_dropped"] = (
                "Requests that the journal had no room for.",
                float(self.journal.dropped),
            )
        return gauges
