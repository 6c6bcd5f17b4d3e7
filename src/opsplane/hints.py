"""Hints over Redis that a run has changed. What it is now is read from Postgres, so a lost hint only delays."""

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

log = structlog.get_logger()

CHANNEL = "opsplane:runs"
GATHER_S = 0.1
AGAIN_S = 0.5
SILENT_S = 5.0
CONNECT_S = 2.0

AWAY = (RedisError, OSError, TimeoutError)


class Announcer:
    """Sends hints from tasks of its own: whoever has changed a run neither waits for Redis nor hears of it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._due: set[uuid.UUID] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._gathering = False
        self._closing = asyncio.Event()
        self._away = False

    def changed(self, run_id: uuid.UUID) -> None:
        """Hint at a run whose numbers changed: at most every 100 ms, and always after the last change."""
        self._due.add(run_id)
        if not self._gathering:
            self._gathering = True
            self._in_background(self._send_due())

    def moved(self, run_id: uuid.UUID) -> None:
        """Hint at a run whose status changed, at once."""
        self._in_background(self._send(run_id))

    async def close(self) -> None:
        """Send what is due."""
        self._closing.set()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _send_due(self) -> None:
        try:
            while self._due:
                due, self._due = self._due, set()
                for run_id in due:
                    await self._send(run_id)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), GATHER_S)
        finally:
            self._gathering = False

    async def _send(self, run_id: uuid.UUID) -> None:
        try:
            await self._redis.publish(CHANNEL, str(run_id))
        except AWAY as error:
            if not self._away:
                log.warning("hints_not_sent", error=repr(error))
            self._away = True
        else:
            self._away = False

    def _in_background(self, sending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(sending)
        self._tasks.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._tasks.discard)


async def listen(redis_url: str, heard: Callable[[uuid.UUID | None], None]) -> None:
    """Hand on every hint, for ever; None whenever some may have been missed, as while Redis was away."""
    away = False
    while True:
        try:
            async with _connected(redis_url) as channel:
                away = False
                heard(None)
                await _hand_on(channel, heard)
        except AWAY as error:
            if not away:
                log.warning("hints_not_heard", error=repr(error))
            away = True
        await asyncio.sleep(AGAIN_S)


@contextlib.asynccontextmanager
async def _connected(redis_url: str) -> Any:
    redis = Redis.from_url(redis_url, socket_connect_timeout=CONNECT_S, retry=Retry(NoBackoff(), 0))
    try:
        async with redis.pubsub() as channel:
            await channel.subscribe(CHANNEL)
            yield channel
    finally:
        await redis.aclose()


async def _hand_on(channel: PubSub, heard: Callable[[uuid.UUID | None], None]) -> None:
    asked = False
    while True:
        message = await channel.get_message(timeout=SILENT_S)
        if message is None:
            if asked:
                raise TimeoutError("Redis does not answer a ping")
            await channel.ping()
        elif message["type"] == "message":
            with contextlib.suppress(ValueError):  # anybody may publish anything there
                heard(uuid.UUID(message["data"].decode()))
        asked = message is None
