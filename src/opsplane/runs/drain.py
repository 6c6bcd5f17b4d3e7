"""The drain: one worker's loop over the tenants of a run, a chunk a transaction."""

import asyncio
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.config import Settings
from opsplane.db import TRANSIENT, Database, first_line, is_unreachable, sqlstate
from opsplane.errors import ServiceUnavailable
from opsplane.hints import Announcer
from opsplane.runbooks import registry
from opsplane.runbooks.base import Chunk, Retry, Runbook
from opsplane.runs import leases, lifecycle, metrics
from opsplane.runs.chunks import ChunkSize
from opsplane.runs.isolation import Isolation
from opsplane.runs.leases import Key, Lease, LeaseLost, RunNotRunning
from opsplane.runs.models import OperationRun
from opsplane.runs.throttling.pacer import Pacer
from opsplane.runs.throttling.throttle import Throttle

log = structlog.get_logger()

SLICE_S = 60
SUSPECT_S = 0.5  # a suspect that waited for its turn with a lease would be blamed for the next death
MAX_PASSES = 3
# Serialization failure, deadlock, lock not available, statement or idle-in-transaction timeout; disk or memory full.


class Drained(StrEnum):
    """Why a drain ended."""

    EMPTY = "empty"
    SLICE_OVER = "slice_over"
    STOPPED = "stopped"
    THROTTLED = "throttled"
    UNKNOWN_RUNBOOK = "unknown_runbook"


@dataclass(frozen=True)
class Drainer:
    """What a worker process brings to every drain; `stop` asks all of them to end after their chunk."""

    db: Database
    settings: Settings
    worker: uuid.UUID
    stop: asyncio.Event
    hints: Announcer
    isolation: Isolation = field(default_factory=Isolation)
    at_work: set[Key] = field(default_factory=set)
    left_behind: asyncio.Event = field(default_factory=asyncio.Event)

    @cached_property
    def throttle(self) -> Throttle:
        """What the drains of this process ask how fast they may go."""
        return Throttle(self.db, self.settings, self.hints)

    async def drain(self, run_id: uuid.UUID) -> Drained:
        """Repair one tenant of the run after another until none is left, the slice is over, or `stop` is set.

        A drain that fails sets `left_behind`: the database may say that this worker holds a tenant
        which it has let go of, or of which it has never heard.
        """
        try:
            return await self._drain(run_id)
        except Exception:
            self.left_behind.set()
            raise

    async def give_back_left_behind(self) -> list[uuid.UUID]:
        """Give back what no drain of this worker is at work on, instead of letting leases run out. Returns the runs."""
        self.left_behind.clear()
        try:
            async with self.db.transaction() as tx:
                return await leases.release_others(tx.session, self.worker, self.at_work)
        except Exception:
            self.left_behind.set()
            raise

    async def _drain(self, run_id: uuid.UUID) -> Drained:
        runbook = await self._runbook_of(run_id)
        if runbook is None:
            return Drained.UNKNOWN_RUNBOOK
        await self._begin(run_id)
        size, ends = self._chunk_size(), time.monotonic() + SLICE_S
        pacer = Pacer(self.throttle, self.db, self.settings, self.stop, run_id, runbook)
        while not self.stop.is_set():
            if not await pacer.before_claim(ends=ends):
                return Drained.THROTTLED
            async with self.db.transaction() as tx:
                lease = await leases.claim(tx.session, run_id, self.worker, lease_s=self.settings.lease_s)
            if lease is None:
                await self._settle(run_id)
                return Drained.EMPTY
            self.hints.changed(run_id)
            if lease.losses and self.at_work:
                await self._give_back(lease, after_s=SUSPECT_S)
                continue
            with self._at_work(lease):
                await self._repair(runbook, lease, size, pacer, ends=ends)
            if time.monotonic() > ends:
                return Drained.SLICE_OVER
        return Drained.STOPPED

    @contextmanager
    def _at_work(self, lease: Lease) -> Iterator[None]:
        self.at_work.add(lease.key)
        try:
            yield
        finally:
            self.at_work.discard(lease.key)

    async def _repair(self, runbook: Runbook, lease: Lease, size: ChunkSize, pacer: Pacer, *, ends: float) -> None:
        """Carry one tenant as far as it goes; every way out leaves its item ended, given back or lost to another."""
        try:
            current: Lease | None = lease
            while current is not None:
                if self.stop.is_set() or time.monotonic() > ends or not await pacer.before_chunk():
                    return await self._give_back(current)
                async with self.isolation.chunk(alone=current.losses > 0):
                    current = await self._advance(runbook, current, size)
        except LeaseLost:
            _lost(lease)
        except RunNotRunning:
            await self._give_back(lease)
        except ServiceUnavailable:
            raise  # the item is given back, or its lease runs out: whoever reaches the database first goes on
        except Exception as error:  # noqa: BLE001 - an author's code may raise anything, and it must end in a failure
            await self._fail(lease, error)
        return None

    async def _advance(self, runbook: Runbook, lease: Lease, size: ChunkSize) -> Lease | None:
        """One chunk: fence, rows, cursor and counts commit together. None when the tenant is done."""
        started = time.monotonic()
        async with self.db.transaction() as tx:
            await leases.fence(tx.session, lease)
            chunk = await _apply(runbook, tx.session, lease, _careful(size.rows, lease))
            done = chunk.cursor is None and not await self._another_pass(tx.session, runbook, lease, chunk)
            passes = lease.passes + (chunk.cursor is None)
            stored = await leases.store(
                tx.session, lease, cursor=chunk.cursor, updated=chunk.updated, errors=chunk.errors, passes=passes,
                lease_s=self.settings.lease_s,
            )  # fmt: skip
            if done:
                await leases.finish(tx.session, stored)
        took_s = time.monotonic() - started
        self.hints.changed(lease.run_id)
        size.observe(chunk.updated, took_s)
        metrics.chunk(runbook.key, chunk.updated, took_s)
        return None if done else stored

    async def _another_pass(self, session: AsyncSession, runbook: Runbook, lease: Lease, chunk: Chunk) -> bool:
        looked_at_everything = lease.cursor is None and chunk.updated == 0
        if looked_at_everything:
            return False
        with _authored():
            if not await runbook.residue(session, lease.tenant_id):
                return False
        if lease.passes + 1 >= MAX_PASSES:
            raise NotConverging
        return True

    async def _fail(self, lease: Lease, error: Exception) -> None:
        code, message = _describe(error)
        # A database error's own text can quote whole rows, so only its first line is kept anywhere.
        traceback = None if isinstance(error, DBAPIError) else error
        log.warning(
            "item_failed", run_id=str(lease.run_id), item=lease.item_key, code=code, error=message, exc_info=traceback
        )
        try:
            async with self.db.transaction() as tx:
                if not _is_transient(error) or not await leases.retry_later(
                    tx.session, lease, *_describe_for_now(error)
                ):
                    await leases.fail(tx.session, lease, code=code, message=message)
            self.hints.changed(lease.run_id)
        except LeaseLost:
            _lost(lease)

    async def _give_back(self, lease: Lease, *, after_s: float = 0) -> None:
        async with self.db.transaction() as tx:
            await leases.release(tx.session, lease, after_s=after_s)
        self.hints.changed(lease.run_id)

    async def _begin(self, run_id: uuid.UUID) -> None:
        async with self.db.transaction() as tx:
            moved = await lifecycle.begin(tx.session, run_id)
        if moved:
            self.hints.moved(run_id)

    async def _settle(self, run_id: uuid.UUID) -> None:
        async with self.db.transaction() as tx:
            moved = await lifecycle.settle(tx.session, run_id)
        if moved:
            self.hints.moved(run_id)

    async def _runbook_of(self, run_id: uuid.UUID) -> Runbook | None:
        """The run's runbook in the run's version, if this process has it: during a deploy, others may."""
        async with self.db.transaction() as tx:
            run = await tx.session.get(OperationRun, run_id)
        if run is not None and registry.known(run.type):
            runbook = registry.find(run.type)
            if runbook.version == run.runbook_version:
                return runbook
        log.warning("runbook_unknown_here", run_id=str(run_id), type=run and run.type)
        return None

    def _chunk_size(self) -> ChunkSize:
        settings = self.settings
        return ChunkSize(
            smallest=settings.chunk_min_rows,
            largest=settings.chunk_max_rows,
            target_s=settings.chunk_target_ms / 1000,
        )


class AuthorError(Exception):
    """The author's code failed outside of the database, which must not look as if the database had."""

    def __str__(self) -> str:
        return f"{type(self.__cause__).__name__}: {self.__cause__}"


def _lost(lease: Lease) -> None:
    metrics.leases_lost.inc()
    log.warning("lease_lost", run_id=str(lease.run_id), item=lease.item_key)


def _careful(rows: int, lease: Lease) -> int:
    """Half as many rows for each time the tenant had to be tried again: what was too slow may fit in parts."""
    return max(1, rows >> lease.attempts)


async def _apply(runbook: Runbook, session: AsyncSession, lease: Lease, limit: int) -> Chunk:
    with _authored():
        return await runbook.apply(session, lease.tenant_id, lease.cursor, limit)


@contextmanager
def _authored() -> Iterator[None]:
    try:
        yield
    except (OSError, TimeoutError) as error:
        raise AuthorError from error


class NotConverging(Exception):
    """The selector still finds rows after three passes: `right` does not make `wrong` false."""

    def __str__(self) -> str:
        return f"Rows are still wrong after {MAX_PASSES} passes: the runbook's right() does not satisfy its wrong()."


def _is_transient(error: Exception) -> bool:
    return isinstance(error, Retry) or sqlstate(error) in TRANSIENT


def _describe_for_now(error: Exception) -> tuple[str, str]:
    return ("try_again", first_line(error)) if isinstance(error, Retry) else _describe(error)


def _describe(error: Exception) -> tuple[str, str]:
    if isinstance(error, NotConverging):
        return "not_converging", str(error)
    if isinstance(error, Retry):
        return "gave_up", f"The runbook asked {leases.MAX_ATTEMPTS} times to try again: {first_line(error)}"
    if isinstance(error, DBAPIError) and not is_unreachable(error):
        hint = " An index that fits the selector, or a larger OPSPLANE_CHUNK_TIMEOUT_S, helps."
        return "database_error", f"{sqlstate(error)}: {first_line(error)}.{hint if sqlstate(error) == '57014' else ''}"
    if isinstance(error, AuthorError):
        return "runbook_error", first_line(error)
    return "runbook_error", f"{type(error).__name__}: {first_line(error)}"
