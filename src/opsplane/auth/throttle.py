"""How often somebody may try to log in: exact limits in Redis, the same limits in this process while Redis is away."""

import asyncio
import hashlib
import math
import time
import unicodedata
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from typing import Any, Self, TypeVar

import structlog
from limits import RateLimitItem, parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from prometheus_client import Counter
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisError

from opsplane.auth import users
from opsplane.errors import OpsplaneError

log = structlog.get_logger()
Answer = TypeVar("Answer")

LOGINS = "10/minute"
CODES = "5/5 minutes"
REFUSALS_ON_RECORD = "1/minute"
TIMEOUT_S = 1.0  # a busy process answers itself late, and must not take that for a Redis that is away
PAUSE_S = 2.0
CONNECTIONS = 20
WARN_EVERY_S = 60.0
MAX_KEYS = 100_000
MAX_USERNAME = 256
UNKNOWN = "unknown"

DEGRADED = Counter(
    "opsplane_login_throttle_degraded", "Questions of the login throttle that Redis did not answer; memory did."
)


THROTTLED = Counter(
    "opsplane_logins_throttled_total", "Passwords and one-time codes that were not looked at after too many.", ["limit"]
)


class TooManyAttempts(OpsplaneError):
    """Somebody has tried too often; the message is the same whether or not the user exists."""

    status, code = HTTPStatus.TOO_MANY_REQUESTS, "too_many_attempts"

    def __init__(self, retry_after_s: int) -> None:
        seconds = "1 second" if retry_after_s == 1 else f"{retry_after_s} seconds"
        super().__init__(f"Too many attempts; try again in {seconds}.")
        self.retry_after_s = retry_after_s


class Throttles:
    """The throttles of one process over one Redis."""

    def __init__(self, redis_url: str) -> None:
        self._redis = _Redis(redis_url)
        self.logins = LoginThrottle(Throttle("login", LOGINS, self._redis))
        self.codes = Throttle("code", CODES, self._redis)

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Throttle:
    """At most `limit` attempts per key; count an attempt before you look whether it is right."""

    def __init__(self, name: str, limit: str, redis: "_Redis") -> None:
        self._name = name
        self._attempts = _Window(parse(limit), redis)
        self._refusals = _Window(parse(REFUSALS_ON_RECORD), redis)

    async def hit(self, *who: str) -> None:
        """Count one attempt.

        Raises:
            TooManyAttempts: it is one too many, and is not counted.
        """
        wait_s = await self._attempts.acquire(self._name, *who)
        if wait_s:
            THROTTLED.labels(self._name).inc()
            raise TooManyAttempts(wait_s)

    async def clear(self, *who: str) -> None:
        """Forget the attempts of this key alone, after one that was right."""
        await self._attempts.clear(self._name, *who)

    async def first_refusal(self, *who: str) -> bool:
        """Whether a refusal of this key is the first in a minute, so that a flood of them is one event on record."""
        return not await self._refusals.acquire(self._name, *who)


class LoginThrottle:
    """Attempts to log in, by plane, client network and user name; nobody can lock a user out from elsewhere."""

    def __init__(self, throttle: Throttle) -> None:
        self._throttle = throttle

    async def hit(self, plane: str, address: str, username: str) -> None:
        """Count one attempt, before the password is looked at.

        Raises:
            TooManyAttempts: it is the 11th within a minute.
        """
        await self._throttle.hit(plane, network(address), fingerprint(username))

    async def clear(self, plane: str, address: str, username: str) -> None:
        """Forget the attempts of this key alone, after a login."""
        await self._throttle.clear(plane, network(address), fingerprint(username))

    async def first_refusal(self, plane: str, address: str, username: str) -> bool:
        """Whether a refusal of this key is the first in a minute."""
        return await self._throttle.first_refusal(plane, network(address), fingerprint(username))


def network(address: str) -> str:
    """What stands for one client: an IPv4 address, or the /64 that an IPv6 customer has to himself."""
    try:
        ip = ip_address(address)
    except ValueError:
        return UNKNOWN  # one bucket for all of them: a Unix socket, or what a trusted proxy made up
    if not isinstance(ip, IPv6Address):
        return str(ip)
    return str(ip.ipv4_mapped or IPv6Address(int(ip) >> 64 << 64))


def fingerprint(username: str) -> str:
    """The same for every spelling that finds the same user, and no name that could be read in Redis."""
    # From the spelling by which users are found: else a variant of it would be ten more attempts at one account.
    spelling = unicodedata.normalize("NFKC", users.normalise(username)[:MAX_USERNAME]).strip().casefold()
    return hashlib.sha256(spelling.encode("utf-8", "surrogatepass")).hexdigest()


class _Window:
    """A moving window: what Redis admits counts in this process too, so a Redis that dies forgets nothing seen here."""

    def __init__(self, limit: RateLimitItem, redis: "_Redis") -> None:
        self._limit = limit
        self._redis = redis
        self._here = _Here(limit)

    async def acquire(self, *who: str) -> int:
        """Count one attempt and return 0, or return the seconds, at least 1, until one may be counted."""
        wait_s = await self._redis.acquire(self._limit, who)
        wait_s = wait_s or self._here.acquire(self._limit.key_for(*who))
        return max(1, math.ceil(wait_s)) if wait_s else 0

    async def clear(self, *who: str) -> None:
        self._here.clear(self._limit.key_for(*who))
        await self._redis.clear(self._limit, who)


class _Here:
    """A moving window of this process.

    Not the `MemoryStorage` of limits: with 6,000 keys that one kept a core busy, for it takes every key through a
    thread whenever one is hit.
    """

    def __init__(self, limit: RateLimitItem) -> None:
        self._amount, self._window_s = limit.amount, limit.get_expiry()
        self._attempts: dict[str, list[float]] = {}  # by the time of the last one, the oldest first

    def acquire(self, key: str) -> float:
        """Count one attempt and return 0, or return the seconds until one may be counted."""
        now = time.monotonic()
        self._forget(now - self._window_s)
        attempts = self._attempts.get(key, [])
        if len(attempts) == self._amount and attempts[0] > now - self._window_s:
            return attempts[0] + self._window_s - now
        self._attempts.pop(key, None)
        self._attempts[key] = [*attempts, now][-self._amount :]
        return 0

    def clear(self, key: str) -> None:
        self._attempts.pop(key, None)

    def _forget(self, before: float) -> None:
        while self._attempts:
            oldest = next(iter(self._attempts))
            if self._attempts[oldest][-1] > before and len(self._attempts) < MAX_KEYS:
                return
            del self._attempts[oldest]


class _Redis:
    """The windows that all processes share; asked only while Redis answers, so a stalled one delays few attempts."""

    def __init__(self, url: str) -> None:
        pool: Any = BlockingConnectionPool  # its stub knows whole seconds only
        self._pool = pool.from_url(
            url, max_connections=CONNECTIONS, timeout=TIMEOUT_S, socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
        )  # fmt: skip
        # By its pool: limits itself knows neither unix:// nor an address without a port.
        storage = RedisStorage(
            "async+redis://", implementation="redispy", key_prefix="opsplane:throttle", connection_pool=self._pool
        )
        self._windows = MovingWindowRateLimiter(storage)
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._silent_until = 0.0
        self._warn_after = 0.0

    async def acquire(self, limit: RateLimitItem, who: tuple[str, ...]) -> float:
        """Seconds until an attempt may be counted; 0 if one was, or if Redis is away."""

        async def acquire() -> float:
            if await self._windows.hit(limit, *who):
                return 0
            stats = await self._windows.get_window_stats(limit, *who)
            return max(stats.reset_time - time.time(), 0.001)

        return await self._ask(acquire) or 0

    async def clear(self, limit: RateLimitItem, who: tuple[str, ...]) -> None:
        """Forget the attempts of a key, if Redis is there."""
        await self._ask(lambda: self._windows.clear(limit, *who))

    async def close(self) -> None:
        await self._pool.disconnect()

    async def _ask(self, question: Callable[[], Awaitable[Answer]]) -> Answer | None:
        # Waiting for a turn is not Redis being slow: only from here on does the clock run against it.
        async with self._turns:
            if self._may_ask():
                return await self._asked(question)
        DEGRADED.inc()
        return None

    async def _asked(self, question: Callable[[], Awaitable[Answer]]) -> Answer | None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await question()
        except (RedisError, OSError, TimeoutError) as error:
            self._away(error)
            return None
        self._silent_until = 0.0
        return answer

    def _may_ask(self) -> bool:
        now = time.monotonic()
        if now < self._silent_until:
            return False
        if self._silent_until:
            self._silent_until = now + PAUSE_S  # this one looks whether Redis is back; the others do not wait with it
        return True

    def _away(self, error: Exception) -> None:
        now = time.monotonic()
        DEGRADED.inc()
        self._silent_until = now + PAUSE_S
        if now >= self._warn_after:
            self._warn_after = now + WARN_EVERY_S
            log.warning("login_throttle_degraded", error=repr(error))
