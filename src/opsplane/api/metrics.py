"""Numbers for Prometheus: to whoever is on this machine, and to API tokens that may view operations."""

import asyncio
import hashlib
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from opsplane.access import operators
from opsplane.api import problems
from opsplane.api.gate import bearer
from opsplane.auth.capabilities import Capability
from opsplane.db import Database
from opsplane.errors import ServiceUnavailable
from opsplane.runbooks.service import Plane
from opsplane.runs import installation
from opsplane.runs.installation import Figures

log = structlog.get_logger()

FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
WITHIN_S = 2.0
KEPT_S = 5.0
REMEMBERED_S = 3600.0
MAX_REMEMBERED = 100


class Exposition:
    """What one process tells Prometheus, whatever state the database is in."""

    def __init__(self) -> None:
        self._figures = _Figures()
        self._readers = _Readers()

    async def show(self, request: Request) -> Response:
        """Every number of this process, and those of the installation; to strangers the path is missing."""
        ends_at = time.monotonic() + WITHIN_S
        if not _is_local(request):
            token = bearer(request)
            if token is None:
                return problems.not_found()
            await self._readers.require(request.state.plane, token, ends_at)
        figures = await self._figures.current(request.state.plane.db, ends_at)
        return Response(generate_latest(REGISTRY) + _exposed(figures), media_type=CONTENT_TYPE_LATEST)


class _Figures:
    """The figures of the installation: read once for all who ask within a few seconds."""

    def __init__(self) -> None:
        self._reading: asyncio.Task[Figures | None] | None = None
        self._began = 0.0

    async def current(self, db: Database, ends_at: float) -> Figures | None:
        """None if the database does not give them in time; then it is not asked again while it owes an answer."""
        reading = self._reading
        if reading is None or (reading.done() and time.monotonic() - self._began > KEPT_S):
            reading = self._reading = asyncio.create_task(_read(db))
            self._began = time.monotonic()
        done, _ = await asyncio.wait({reading}, timeout=ends_at - time.monotonic())
        return reading.result() if done else None


class _Readers:
    """Whose token was good lately: the database that knows tokens is what a scrape must be able to miss."""

    def __init__(self) -> None:
        self._good: dict[bytes, float] = {}
        self._checks: set[asyncio.Task[None]] = set()

    async def require(self, plane: Plane, token: str, ends_at: float) -> None:
        """Ask who it is; while the database does not answer, a token that was good within the hour is enough.

        Raises:
            InvalidToken: 401.
            MissingCapability: 403.
            ServiceUnavailable: the database does not answer, and the token is not known from before.
        """
        key = hashlib.sha256(token.encode()).digest()
        before = self._good.pop(key, None)
        try:
            await self._within(ends_at, _authenticate(plane, token))
        except ServiceUnavailable:
            if before is None or time.monotonic() - before > REMEMBERED_S:
                raise
            self._remember(key, before)
        else:
            self._remember(key, time.monotonic())

    async def _within(self, ends_at: float, check: Coroutine[Any, Any, None]) -> None:
        checking = asyncio.create_task(check)  # goes on by itself: a cancelled call costs the connection
        self._checks.add(checking)
        checking.add_done_callback(self._end)
        await asyncio.wait({checking}, timeout=ends_at - time.monotonic())
        if not checking.done():
            raise ServiceUnavailable("The database does not answer.", service="database")
        checking.result()

    def _end(self, checking: asyncio.Task[None]) -> None:
        self._checks.discard(checking)
        if not checking.cancelled():
            checking.exception()  # nobody may be waiting for it any more

    def _remember(self, key: bytes, at: float) -> None:
        self._good[key] = at
        while len(self._good) > MAX_REMEMBERED:
            del self._good[next(iter(self._good))]


@dataclass(frozen=True)
class _Snapshot(Collector):
    figures: Figures | None

    def collect(self) -> Iterator[Metric]:
        return installation.families(self.figures)


async def _read(db: Database) -> Figures | None:
    try:
        async with db.reading(timeout_s=WITHIN_S) as session:
            return await installation.read(session)
    except ServiceUnavailable:
        return None  # logged where it was noticed
    except Exception:
        log.exception("figures_not_read")
        return None


async def _authenticate(plane: Plane, token: str) -> None:
    operator = await operators.by_token(plane.db, token)
    operator.actor.require(Capability.SYSTEM_ACCESS, Capability.OPS_VIEW)


def _exposed(figures: Figures | None) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Snapshot(figures))
    return generate_latest(registry)


def _is_local(request: Request) -> bool:
    """On this machine, and not passed on by a proxy on this machine, whose own address it then has."""
    if request.client is None or any(name in request.headers for name in FORWARDED):
        return False
    try:
        return ip_address(request.client.host).is_loopback
    except ValueError:
        return False
