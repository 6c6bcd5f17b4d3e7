"""The arq side of a worker: its jobs carry a run id and start a drain."""

import asyncio
import contextlib
import json
import time
import uuid
from typing import Any

import structlog
from arq.worker import Worker, func
from redis.exceptions import RedisError

from opsplane.errors import ServiceUnavailable
from opsplane.queue import DRAIN, QUEUE, Queue, connect, to_json
from opsplane.runs.drain import Drained, Drainer

log = structlog.get_logger()

JOB_TIMEOUT_S = 3600  # a drain ends itself after a minute; arq, which would cancel it, must never be the one
REDIS_TIMEOUT_S = 2.0
PAUSE_S = 1.0
POLL_S, POLL_AT_WORK_S = 0.05, 0.5
CANCEL_AGAIN_S = 0.1


class Listener(Worker):
    """Notices a job at once where it has nothing to do, and otherwise twice a second: looking has its price."""

    _looked_at = 0.0

    async def _poll_iteration(self) -> None:  # arq's own, and private; a test of the bell looks whether it still is
        if self.job_counter and time.monotonic() - self._looked_at < POLL_AT_WORK_S:
            return
        self._looked_at = time.monotonic()
        await super()._poll_iteration()


class Bell:
    """Listens to Redis until `stop`; `deaf` is set while Redis is away."""

    def __init__(self, drainer: Drainer, queue: Queue, *, slots: asyncio.Semaphore, concurrency: int) -> None:
        self._drainer, self._queue, self._slots = drainer, queue, slots
        self._concurrency = concurrency
        self._closing = set[asyncio.Task[None]]()
        self.deaf = asyncio.Event()

    async def listen(self) -> None:
        """Serve arq jobs; when Redis fails, start anew until it is back."""
        while not self._drainer.stop.is_set():
            try:
                await self._serve()
            except (RedisError, OSError, TimeoutError) as error:
                if not self.deaf.is_set():
                    log.warning("redis_away", error=repr(error))
                self.deaf.set()
            await _pause(self._drainer.stop, PAUSE_S)
        await asyncio.gather(*self._closing)

    async def _serve(self) -> None:
        worker = self._worker()
        serving = asyncio.create_task(worker.async_run())
        stopping = asyncio.create_task(self._drainer.stop.wait())
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
            worker.allow_pick_jobs = False
            await asyncio.gather(*worker.tasks.values(), return_exceptions=True)
        finally:
            stopping.cancel()
            await _end(serving)
            closing = asyncio.create_task(_close(worker))  # Redis may be back long before the last drain ends
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _worker(self) -> Listener:
        assert self._drainer.settings.redis_url is not None
        return Listener(
            functions=[func(self._drain, name=DRAIN, keep_result=0, timeout=JOB_TIMEOUT_S, max_tries=10_000)],  # type: ignore[arg-type]
            queue_name=QUEUE,
            redis_pool=connect(self._drainer.settings.redis_url, timeout_s=REDIS_TIMEOUT_S),
            handle_signals=False,
            max_jobs=self._concurrency,
            poll_delay=POLL_S,
            health_check_interval=10,  # it writes: a Redis that has become read-only shows itself
            job_serializer=to_json,
            job_deserializer=json.loads,
            log_results=False,
        )

    async def _drain(self, _ctx: dict[Any, Any], run_id: str) -> None:
        self.deaf.clear()
        parsed = uuid.UUID(run_id)
        try:
            async with self._slots:
                drained = await self._drainer.drain(parsed)
        except ServiceUnavailable:
            return  # logged where it was noticed; the sweeper rings again when the database is back
        if drained in {Drained.SLICE_OVER, Drained.STOPPED, Drained.THROTTLED}:
            await self._queue.wake(parsed, jobs=1)


async def _close(worker: Worker) -> None:
    """Close its connections after its last job, which would open another.

    A drain whose job cannot be marked as done in a Redis that is away has done its work all the same.
    """
    for ended in await asyncio.gather(*worker.tasks.values(), return_exceptions=True):
        if isinstance(ended, Exception):
            log.warning("job_not_acknowledged", error=repr(ended))
    with contextlib.suppress(RedisError, OSError, TimeoutError):
        await worker.pool.aclose(close_connection_pool=True)


async def _end(serving: asyncio.Task[None]) -> None:
    """Cancel until it has ended: `wait_for`, in which redis-py sends, may swallow one before Python 3.12."""
    while not serving.done():
        serving.cancel()
        await asyncio.wait({serving}, timeout=CANCEL_AGAIN_S)
    await asyncio.gather(serving, return_exceptions=True)  # what it failed with has been raised, or came too late


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
