"""Redis, which several gateways may share: scripts that count, and news that are told to all. It is never needed: what
it cannot do is done by each gateway for itself until it is back."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson

from gateway.errors import GatewayError
from gateway.store.complaints import Complaints
from gateway.tasks import ended

if TYPE_CHECKING:
    from redis.asyncio import Redis

logger = logging.getLogger(__name__)

ANSWERS_WITHIN_S = 1.0
LOOK_EVERY_S = 0.5  # while it is not there, whether it is back
CONNECTIONS = 64
CHANNEL = "onion-gateway"

Hear = Callable[[dict[str, Any]], None]


class Shared:
    """Use it in one event loop, between `start` and `close`. Who asks waits for it once at most: while it does not
    answer, it is only asked whether it is back.

    Counters: `failures` of asking. `is_up`: it has answered last.
    """

    def __init__(self, url: str) -> None:
        self.failures = 0
        self.is_up = False
        self._url = url
        self._redis: Redis | None = None
        self._looking: asyncio.Event = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._telling: set[asyncio.Task[None]] = set()
        self._own = secrets.token_hex(8)
        self._hearers: dict[str, list[Hear]] = defaultdict(list)
        self._digests: dict[str, str] = {}
        self._complaints = Complaints(logger)

    async def start(self) -> None:
        """Raises: GatewayError where the package is not installed. A server that is not there is no error."""
        try:
            from redis.asyncio import BlockingConnectionPool, Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ModuleNotFoundError as exc:
            raise GatewayError("redis_url wants the package redis: pip install 'onion-gateway[redis]'") from exc
        pool = BlockingConnectionPool.from_url(
            self._url,
            max_connections=CONNECTIONS,
            timeout=ANSWERS_WITHIN_S,
            socket_timeout=ANSWERS_WITHIN_S,
            socket_connect_timeout=ANSWERS_WITHIN_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis = Redis(connection_pool=pool)
        await self._look()
        self._tasks = [
            asyncio.create_task(self._keep_looking(), name="redis"),
            asyncio.create_task(self._keep_listening(), name="redis news"),
        ]

    async def close(self) -> None:
        await ended([*self._tasks, *self._telling])
        self._tasks = []
        if self._redis is not None:
            await self._redis.aclose()
            await self._redis.connection_pool.disconnect()
            self._redis = None

    # -- scripts -------------------------------------------------------------------------------------------------

    async def run(self, script: str, keys: Sequence[str], values: Sequence[str | int | float]) -> Any:
        """What the script returns; None where there is no answer."""
        redis = self._redis
        if redis is None or not self.is_up:
            return None
        from redis.exceptions import NoScriptError, RedisError

        try:
            digest = self._digests.get(script) or await self._load(redis, script)
            try:
                return await redis.evalsha(digest, len(keys), *keys, *values)
            except NoScriptError:  # it was started anew
                return await redis.evalsha(await self._load(redis, script), len(keys), *keys, *values)
        except (RedisError, OSError, TimeoutError) as exc:
            self._fail(exc)
            return None

    async def _load(self, redis: Redis, script: str) -> str:
        digest = self._digests[script] = str(await redis.script_load(script))
        return digest

    def _fail(self, exc: Exception) -> None:
        self.failures += 1
        self.is_up = False
        self._looking.set()
        reason = str(exc) or type(exc).__name__
        self._complaints.say(f"redis does not answer ({reason}): until it does, each gateway counts for itself")

    async def _look(self) -> None:
        from redis.exceptions import RedisError

        assert self._redis is not None
        try:
            await self._redis.connection_pool.disconnect(inuse_connections=False)  # none of those from before
            await self._redis.ping()
        except (RedisError, OSError, TimeoutError) as exc:
            self._fail(exc)
        else:
            self.is_up = True

    async def _keep_looking(self) -> None:
        while True:
            await self._looking.wait()
            self._looking.clear()
            while not self.is_up:
                await asyncio.sleep(LOOK_EVERY_S)
                await self._look()
            logger.info("redis answers")

    # -- news ----------------------------------------------------------------------------------------------------

    def hear(self, about: str, hearer: Hear) -> None:
        """It is called in the event loop with what another gateway tells of that."""
        self._hearers[about].append(hearer)

    def tell(self, about: str, **facts: Any) -> None:
        """Never waits, never raises. Nobody may hear it: it is to be found out in another way, too."""
        if self.is_up:
            task = asyncio.create_task(self._tell(orjson.dumps({"about": about, "from": self._own, **facts})))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _tell(self, message: bytes) -> None:
        from redis.exceptions import RedisError

        assert self._redis is not None
        try:
            await self._redis.publish(CHANNEL, message)
        except (RedisError, OSError, TimeoutError) as exc:
            self._fail(exc)

    async def _keep_listening(self) -> None:
        from redis.exceptions import RedisError

        assert self._redis is not None
        while True:
            with suppress(RedisError, OSError, TimeoutError):  # that it is not there is complained of where it is asked
                async with self._redis.pubsub(ignore_subscribe_messages=True) as news:
                    await news.subscribe(CHANNEL)
                    while True:
                        message = await news.get_message(timeout=ANSWERS_WITHIN_S / 2)
                        if message is not None:
                            self._heard(message["data"])
            await asyncio.sleep(LOOK_EVERY_S)

    def _heard(self, data: bytes) -> None:
        try:
            facts = orjson.loads(data)
            about, teller = facts.pop("about"), facts.pop("from")
        except (ValueError, AttributeError, KeyError):  # somebody else's
            return
        for hearer in self._hearers.get(about, ()) if teller != self._own else ():
            try:
                hearer(facts)
            except Exception:  # one piece of news must not end the listening
                logger.exception("what another gateway has told could not be used")
