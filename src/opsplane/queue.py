"""The doorbell: arq jobs that say "this run may have work". Losing, repeating or delaying one is harmless."""

import json
import time
import uuid
from datetime import timedelta
from typing import Any

import structlog
from arq.connections import ArqRedis
from arq.constants import job_key_prefix
from arq.jobs import serialize_job
from redis.asyncio import ConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from opsplane.config import Settings
from opsplane.hints import Announcer

log = structlog.get_logger()

QUEUE = "opsplane:queue"
DRAIN = "opsplane.drain.v1"  # fixed for ever: an older worker must know the name that a newer one sends
LINE = "opsplane:line"
JOBS_PER_WAKE = 4
KEPT_FOR = timedelta(days=7)
TIMEOUT_S = 0.4


class Queue:
    """Sends doorbells; never raises for a Redis that is away, because the sweeper rings again."""

    def __init__(self, settings: Settings) -> None:
        assert settings.redis_url is not None, "no Redis is known yet"
        self.redis = connect(settings.redis_url, timeout_s=TIMEOUT_S)
        self.hints = Announcer(self.redis)

    async def wake(self, run_id: uuid.UUID, *, jobs: int = JOBS_PER_WAKE) -> bool:
        """Ring for a run; True if Redis took it."""
        try:
            last = int(await self.redis.incrby(LINE, jobs))
            await self._enqueue(run_id, range(last - jobs + 1, last + 1))
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("wake_not_sent", run_id=str(run_id), error=repr(error))
            return False
        return True

    async def _enqueue(self, run_id: uuid.UUID, places: range) -> None:
        """Jobs as arq writes them, at once: one by one it would ask three times about ids that are new.

        Their places in a line it takes for times: an hour between two clocks would be an hour's silence.
        """
        job = serialize_job(DRAIN, (str(run_id),), {}, None, int(time.time() * 1000), serializer=to_json)
        # A new id each time: arq silently drops an id that a killed worker still seems to hold.
        line = {f"drain:{run_id}:{uuid.uuid4().hex}": place for place in places}
        async with self.redis.pipeline(transaction=True) as together:
            for job_id in line:
                together.psetex(job_key_prefix + job_id, KEPT_FOR, job)
            together.zadd(QUEUE, line)
            await together.execute()

    async def is_up(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(await self.redis.ping())
        except (RedisError, OSError, TimeoutError):
            return False

    async def close(self) -> None:
        """Send what is left to send and close every connection."""
        await self.hints.close()
        await self.redis.aclose(close_connection_pool=True)


def connect(redis_url: str, *, timeout_s: float) -> ArqRedis:
    """An arq connection whose payloads are JSON: a pickle in Redis would be code in a worker."""
    pool: Any = ConnectionPool.from_url(
        redis_url,
        socket_connect_timeout=timeout_s,
        socket_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        max_connections=50,
    )
    return ArqRedis(
        pool,
        job_serializer=to_json,
        job_deserializer=json.loads,
        default_queue_name=QUEUE,
    )


def to_json(job: dict[str, Any]) -> bytes:
    """Serialize a job or its result."""
    return json.dumps(job, default=str).encode()
