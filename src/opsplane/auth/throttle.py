"""How often somebody may try: counted in Redis before anything is compared, in this process while Redis is away."""

import asyncio
import hashlib
import time
import unicodedata
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, TypeVar

import structlog
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from prometheus_client import Counter
from redis.asyncio import ConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from opsplane.errors import OpsplaneError

log = structlog.get_logger()

LOGINS = RateLimitItemPerMinute(10, 1, namespace="login")
ONE_TIME_CODES = RateLimitItemPerMinute(5, 5, namespace="code")
REDIS_TIMEOUT_S = 0.25
REDIS_REST_S = 2.0
LONGEST_NAME = 256

degraded = Counter(
    "opsplane_throttle_degraded_total", "Attempts counted in one process alone, because Redis did not answer."
)


T = TypeVar("T")


class TooManyAttempts(OpsplaneError):
    """The limit is reached; the password was not even looked at."""

    status, code = HTTPStatus.TOO_MANY_REQUESTS, "too_many_attempts"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"Too many attempts; try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


class Throttle:
    """At most so many attempts in a moving window, by plane, client address and user name.

    Every attempt is counted in this process as well, so that a Redis that stalls opens nothing:
    what was tried before still counts. Redis that failed is left alone for two seconds.
    """

    def __init__(self, redis_url: str, limit: RateLimitItem) -> None:
        self._limit = limit
        self._notice = RateLimitItemPerMinute(1, 1, namespace=f"{limit.namespace}-refused")
        self._pool = ConnectionPool.from_url(
            redis_url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0), max_connections=50,
        )  # fmt: skip
        pool: Any = self._pool
        shared = RedisStorage("async+redis://unused:0", implementation="redispy", connection_pool=pool)
        self._shared, self._own = MovingWindowRateLimiter(shared), MovingWindowRateLimiter(MemoryStorage())
        self._rests_until = 0.0

    async def hit(self, plane: str, address: str, name: str) -> None:
        """Count an attempt.

        Raises:
            TooManyAttempts: 429, with the seconds to wait.
        """
        key = _key(plane, address, name)
        own = await self._own.hit(self._limit, key)
        shared = await self._ask(partial(self._shared.hit, self._limit, key))
        if not (own if shared is None else shared):
            raise TooManyAttempts(await self._wait_s(key))

    async def clear(self, plane: str, address: str, name: str) -> None:
        """Forget the attempts on this key alone; somebody has got in."""
        key = _key(plane, address, name)
        await self._own.clear(self._limit, key)
        await self._ask(partial(self._shared.clear, self._limit, key))

    async def first_refusal(self, plane: str, address: str, name: str) -> bool:
        """Whether a refusal is worth a record: one a minute, so that a flood cannot fill the audit."""
        return await self._own.hit(self._notice, _key(plane, address, name))

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.disconnect()

    async def _wait_s(self, key: str) -> int:
        stats = await self._ask(partial(self._shared.get_window_stats, self._limit, key))
        if stats is None:
            stats = await self._own.get_window_stats(self._limit, key)
        return max(1, round(stats.reset_time - time.time() + 0.5))

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T | None:
        """Redis's answer; None if it gave none in time, or failed a moment ago."""
        if time.monotonic() < self._rests_until:
            degraded.inc()
            return None
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_S):
                return await question()
        except (RedisError, OSError, TimeoutError) as error:
            degraded.inc()
            self._rests_until = time.monotonic() + REDIS_REST_S
            log.warning("throttle_degraded", error=repr(error))
            return None


def _key(plane: str, address: str, name: str) -> str:
    normal = unicodedata.normalize("NFKC", name[:LONGEST_NAME]).strip().casefold()
    return f"{plane}:{_network(address)}:{hashlib.sha256(normal.encode()).hexdigest()}"


def _network(address: str) -> str:
    """The address; of IPv6 its /64, which one subscriber has to himself."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return "unknown"
    return str(ip_network(f"{parsed}/64", strict=False)) if isinstance(parsed, IPv6Address) else str(parsed)
