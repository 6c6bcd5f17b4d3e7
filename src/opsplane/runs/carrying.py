"""Carrying leased tenants of a run: chunk by chunk, each chunk a transaction over one tenant or several small ones."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.config import Settings
from opsplane.db import Database, first_line
from opsplane.errors import ServiceUnavailable
from opsplane.hints import Announcer
from opsplane.runbooks.base import Chunk, Runbook
from opsplane.runs import leases, metrics, troubles
from opsplane.runs.chunks import Pace
from opsplane.runs.isolation import Isolation
from opsplane.runs.leases import Lease, LeaseLost, RunNotRunning, Whole
from opsplane.runs.throttling.pacer import Pacer
from opsplane.runs.troubles import MAX_PASSES, NotConverging, authored

log = structlog.get_logger()


class Culprit(Exception):
    """One tenant of several broke their common chunk; its cause says how."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(lease.item_key)
        self.lease = lease


@dataclass
class Bundle:
    """What one chunk did for several tenants, in order: whole ones, at most one in part, and some not at all."""

    waiting: list[Lease]
    whole: list[Whole] = field(default_factory=list)
    begun: Lease | None = None
    updated: int = 0


@dataclass(frozen=True, kw_only=True)
class Carrier:
    """A drain's means to carry tenants; every way out leaves each of them ended, given back or lost to another."""

    db: Database
    settings: Settings
    hints: Announcer
    isolation: Isolation
    stop: asyncio.Event
    runbook: Runbook
    pace: Pace
    pacer: Pacer
    ends: float

    async def carry(self, held: Sequence[Lease]) -> None:
        """Repair these tenants as far as time allows."""
        waiting, since = list(held), time.monotonic()
        while len(waiting) > 1:
            impatient = time.monotonic() - since > self.pace.patience_s
            if impatient or self._is_over() or not await self.pacer.before_chunk():
                return await self._give_back(waiting)
            waiting = await self._together(waiting)
        for lease in waiting:
            await self._alone(lease)
        return None

    def _is_over(self) -> bool:
        return self.stop.is_set() or time.monotonic() > self.ends

    async def _together(self, held: list[Lease]) -> list[Lease]:
        """One chunk for as many of them as fit; a tenant that needs more is carried on alone. Returns who waits."""
        try:
            async with self.isolation.chunk(alone=False):
                bundle = await self._advance_together(held)
        except RunNotRunning:
            await self._give_back(held)
            return []
        except ServiceUnavailable:
            raise  # as below
        except Culprit as broken:
            self.pace.met_trouble()
            await self._give_back([lease for lease in held if lease is not broken.lease])
            await self._alone(broken.lease)
            return []
        except Exception as error:  # noqa: BLE001 - an author's code may raise anything
            # As at the commit: nobody is named, and perhaps it is done. Claimed anew, each shows by itself what it is.
            log.warning("bundle_failed", run_id=str(held[0].run_id), tenants=len(held), error=first_line(error))
            self.pace.one_by_one()
            await self._give_back(held)
            return []
        if bundle.begun is None:
            return bundle.waiting
        await self._give_back(bundle.waiting)
        await self._alone(bundle.begun)
        return []

    async def _advance_together(self, held: list[Lease]) -> Bundle:
        """Fence, rows, cursors and counts of several tenants commit together, or not at all."""
        started = time.monotonic()
        async with self.db.transaction() as tx:
            ours = await leases.fence_all(tx.session, held)
            bundle = Bundle(waiting=list(ours))
            while bundle.waiting and self._has_room(bundle, started):
                await self._add(tx.session, bundle)
            await leases.finish_all(tx.session, bundle.whole)
        took_s = time.monotonic() - started
        for lease in held:
            if lease not in ours:
                _lost(lease)
        self._count(bundle.updated, took_s)
        self.pace.carried(len(bundle.whole), took_s)
        return bundle

    def _has_room(self, bundle: Bundle, started: float) -> bool:
        if bundle.begun is not None or not bundle.whole:
            return bundle.begun is None
        in_time = time.monotonic() - started < self.pace.target_s
        return bundle.updated < self.pace.size.rows and in_time and not self.stop.is_set()

    async def _add(self, session: AsyncSession, bundle: Bundle) -> None:
        """The next tenant's chunk, as part of the others' transaction."""
        lease = bundle.waiting.pop(0)
        started = time.monotonic()
        try:
            chunk = await self._apply(session, lease, self.pace.size.rows)
            done = await self._is_done(session, lease, chunk)
        except ServiceUnavailable:
            raise
        except Exception as error:
            raise Culprit(lease) from error
        self._learn(chunk, time.monotonic() - started)
        bundle.updated += chunk.updated
        if done:
            bundle.whole.append(Whole(lease, chunk.updated, chunk.errors))
        else:
            bundle.begun = await self._store(session, lease, chunk)

    async def _alone(self, lease: Lease) -> None:
        """Carry one tenant as far as it goes."""
        try:
            current: Lease | None = lease
            while current is not None:
                if self._is_over() or not await self.pacer.before_chunk():
                    return await self._give_back([current])
                async with self.isolation.chunk(alone=current.losses > 0):
                    current = await self.advance(current)
        except LeaseLost:
            _lost(lease)
        except RunNotRunning:
            await self._give_back([lease])
        except ServiceUnavailable:
            raise  # the item is given back, or its lease runs out: whoever reaches the database first goes on
        except Exception as error:  # noqa: BLE001 - an author's code may raise anything, and it must end in a failure
            await self._fail(lease, error)
        return None

    async def advance(self, lease: Lease) -> Lease | None:
        """One chunk: fence, rows, cursor and counts commit together. None when the tenant is done."""
        started = time.monotonic()
        async with self.db.transaction() as tx:
            await leases.fence(tx.session, lease)
            chunk = await self._apply(tx.session, lease, _careful(self.pace.size.rows, lease))
            done = await self._is_done(tx.session, lease, chunk)
            stored = await self._store(tx.session, lease, chunk)
            if done:
                await leases.finish(tx.session, stored)
        took_s = time.monotonic() - started
        self._learn(chunk, took_s)
        self._count(chunk.updated, took_s)
        self.hints.changed(lease.run_id)
        if done and lease.cursor is None:
            self.pace.carried(1, took_s)
        return None if done else stored

    async def _apply(self, session: AsyncSession, lease: Lease, limit: int) -> Chunk:
        with authored():
            return await self.runbook.apply(session, lease.tenant_id, lease.cursor, limit)

    async def _is_done(self, session: AsyncSession, lease: Lease, chunk: Chunk) -> bool:
        if chunk.cursor is not None:
            return False
        looked_at_everything = lease.cursor is None and chunk.updated == 0
        if chunk.proven or looked_at_everything:
            return True
        with authored():
            if not await self.runbook.residue(session, lease.tenant_id):
                return True
        if lease.passes + 1 >= MAX_PASSES:
            raise NotConverging
        return False

    async def _store(self, session: AsyncSession, lease: Lease, chunk: Chunk) -> Lease:
        return await leases.store(
            session, lease, cursor=chunk.cursor, updated=chunk.updated, errors=chunk.errors,
            passes=lease.passes + (chunk.cursor is None), lease_s=self.settings.lease_s,
        )  # fmt: skip

    def _learn(self, chunk: Chunk, seconds: float) -> None:
        self.pace.size.observe(chunk.updated if chunk.effort is None else chunk.effort, seconds)

    def _count(self, updated: int, seconds: float) -> None:
        metrics.chunk(self.runbook.key, updated, seconds)

    async def _fail(self, lease: Lease, error: Exception) -> None:
        code, message = troubles.describe(error)
        # A database error's own text can quote whole rows, so only its first line is kept anywhere.
        traceback = None if isinstance(error, DBAPIError) else error
        log.warning(
            "item_failed", run_id=str(lease.run_id), item=lease.item_key, code=code, error=message, exc_info=traceback
        )
        try:
            async with self.db.transaction() as tx:
                if not troubles.is_transient(error) or not await leases.retry_later(
                    tx.session, lease, *troubles.describe_for_now(error)
                ):
                    await leases.fail(tx.session, lease, code=code, message=message)
            self.hints.changed(lease.run_id)
        except LeaseLost:
            _lost(lease)

    async def _give_back(self, held: Sequence[Lease]) -> None:
        if held:
            async with self.db.transaction() as tx:
                await leases.release(tx.session, held)
            self.hints.changed(held[0].run_id)


def _lost(lease: Lease) -> None:
    metrics.leases_lost.inc()
    log.warning("lease_lost", run_id=str(lease.run_id), item=lease.item_key)


def _careful(rows: int, lease: Lease) -> int:
    """Half as many rows for each time the tenant had to be tried again: what was too slow may fit in parts."""
    return max(1, rows >> lease.attempts)
