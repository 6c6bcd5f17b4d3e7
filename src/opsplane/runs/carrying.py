"""Carrying leased tenants of a run: chunk by chunk, each chunk a transaction over one tenant or several small ones."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import structlog
from sqlalchemy.exc import DBAPIError

from opsplane.config import Settings
from opsplane.db import Database, first_line
from opsplane.errors import ServiceUnavailable
from opsplane.hints import Announcer
from opsplane.runbooks.base import Runbook
from opsplane.runs import at_once, leases, metrics, troubles
from opsplane.runs.at_once import AtOnce
from opsplane.runs.bundles import Culprit, Unclear
from opsplane.runs.by_hand import ByHand
from opsplane.runs.carried import Carried
from opsplane.runs.chunks import Pace
from opsplane.runs.isolation import Isolation
from opsplane.runs.leases import Lease, LeaseLost, RunNotRunning
from opsplane.runs.throttling.pacer import Pacer

log = structlog.get_logger()


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

    @cached_property
    def chunks(self) -> AtOnce | ByHand:
        """Its runbook at work."""
        if at_once.fits(self.runbook):
            return AtOnce(db=self.db, runbook=self.runbook, pace=self.pace, lease_s=self.settings.lease_s)
        return ByHand(
            db=self.db, runbook=self.runbook, pace=self.pace, stop=self.stop, lease_s=self.settings.lease_s
        )  # fmt: skip

    async def carry(self, held: Sequence[Lease]) -> None:
        """Repair these tenants as far as time allows."""
        waiting, since = list(held), time.monotonic()
        while len(waiting) > 1:
            took_s = time.monotonic() - since
            if took_s > self.pace.patience_s or self._is_over() or not await self._may_go_on():
                return await self._give_back(waiting)
            if waiting[0].is_begun and took_s > self.pace.together_s:
                first, *others = waiting  # it may take long, and somebody else may have nothing to do
                await self._give_back(others)
                waiting = [first]
            else:
                waiting = await self._together(waiting)
        if waiting:
            await self._alone(waiting[0])
        return None

    async def _may_go_on(self) -> bool:
        goes_on = await self.pacer.before_chunk()
        self.pace.gentle = self.pacer.is_slow
        return goes_on

    def _is_over(self) -> bool:
        return self.stop.is_set() or time.monotonic() > self.ends

    async def _together(self, held: list[Lease]) -> list[Lease]:
        """One chunk for as many of them as fit. Returns who waits, with the one first that needs another chunk."""
        try:
            async with self.isolation.chunk(alone=False):
                carried = await self._advance_together(held)
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
        except Unclear as broken:
            log.info("statement_failed", run_id=str(held[0].run_id), error=first_line(broken.__cause__ or broken))
            self.pace.statement_failed()
            return held
        except Exception as error:  # noqa: BLE001 - an author's code may raise anything
            # As at the commit: nobody is named, and perhaps it is done. Claimed anew, each shows by itself what it is.
            log.warning("bundle_failed", run_id=str(held[0].run_id), tenants=len(held), error=first_line(error))
            self.pace.one_by_one()
            await self._give_back(held)
            return []
        return [*carried.unfinished, *carried.waiting]

    async def _advance_together(self, held: list[Lease]) -> Carried:
        started = time.monotonic()
        carried = await self.chunks.together(held)
        took_s = time.monotonic() - started
        for lease in carried.lost:
            _lost(lease)
        self._count(carried, took_s)
        if not held[0].is_begun:  # what is left of a tenant says little about whole ones
            self.pace.carried(len(carried.whole), took_s)
        return carried

    async def _alone(self, lease: Lease) -> None:
        """Carry one tenant as far as it goes."""
        current = lease
        try:
            while not self._is_over() and await self._may_go_on():
                async with self.isolation.chunk(alone=current.losses > 0):
                    stored = await self.advance(current)
                if stored is None:
                    return
                current = stored
            await self._give_back([current])
        except LeaseLost:
            _lost(current)
        except RunNotRunning:
            await self._give_back([current])
        except ServiceUnavailable:
            raise  # the item is given back, or its lease runs out: whoever reaches the database first goes on
        except Exception as error:  # noqa: BLE001 - an author's code may raise anything, and it must end in a failure
            await self._fail(current, error)

    async def advance(self, lease: Lease) -> Lease | None:
        """One chunk: fence, rows, cursor and counts commit together. None when the tenant is done."""
        started = time.monotonic()
        carried = await self.chunks.alone(lease, _careful(self.pace.rows, lease))
        if carried.lost:
            raise LeaseLost
        took_s = time.monotonic() - started
        self._count(carried, took_s)
        self.hints.changed(lease.run_id)
        if carried.whole and not lease.is_begun:
            self.pace.carried(1, took_s)
        return carried.unfinished[0] if carried.unfinished else None

    def _count(self, carried: Carried, seconds: float) -> None:
        self.pace.size.observe(carried.took, seconds)
        metrics.chunk(self.runbook.key, carried.updated, seconds)

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
            async with self.db.bare() as bare:
                await leases.release(bare, held)
            self.hints.changed(held[0].run_id)


def _lost(lease: Lease) -> None:
    metrics.leases_lost.inc()
    log.warning("lease_lost", run_id=str(lease.run_id), item=lease.item_key)


def _careful(rows: int, lease: Lease) -> int:
    """Half as many rows for each time the tenant had to be tried again: what was too slow may fit in parts."""
    return max(1, rows >> lease.attempts)
