"""The drain: one worker's loop over the tenants of a run, a chunk a transaction."""

import asyncio
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import structlog
from sqlalchemy import select

from opsplane.config import Settings
from opsplane.db import Database
from opsplane.hints import Announcer
from opsplane.runbooks import registry
from opsplane.runbooks.base import Runbook
from opsplane.runbooks.statements import BITE
from opsplane.runs import at_once, leases, lifecycle
from opsplane.runs.carrying import Carrier
from opsplane.runs.chunks import Pace
from opsplane.runs.isolation import Isolation
from opsplane.runs.leases import Key, Lease
from opsplane.runs.models import OperationRun
from opsplane.runs.states import Status
from opsplane.runs.throttling.pacer import Pacer
from opsplane.runs.throttling.throttle import Throttle

log = structlog.get_logger()

SLICE_S = 60
BEGIN_S = 5  # tenants of a large run take seconds to be written down
LOOK_AGAIN_S = 0.01
SUSPECT_S = 0.5  # a suspect that waited for its turn with a lease would be blamed for the next death


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
        carrier = self.carrier(run_id, runbook)
        while not self.stop.is_set():
            if not await carrier.pacer.before_claim(ends=carrier.ends):
                return Drained.THROTTLED
            held = await self._claim(run_id, carrier.pace)
            if not held:
                await self._settle(run_id)
                return Drained.EMPTY
            self.hints.changed(run_id)
            if held[0].losses and self.at_work:
                await self._give_back(held, after_s=SUSPECT_S)
                continue
            with self._at_work(held):
                await carrier.carry(held)
            if time.monotonic() > carrier.ends:
                return Drained.SLICE_OVER
        return Drained.STOPPED

    async def _claim(self, run_id: uuid.UUID, pace: Pace) -> list[Lease]:
        async with self.db.bare(each_alone=True) as bare:
            return await leases.claim_some(bare, run_id, self.worker, pace.claim(), lease_s=self.settings.lease_s)

    @contextmanager
    def _at_work(self, held: Sequence[Lease]) -> Iterator[None]:
        keys = {lease.key for lease in held}
        self.at_work.update(keys)
        try:
            yield
        finally:
            self.at_work.difference_update(keys)

    def carrier(self, run_id: uuid.UUID, runbook: Runbook) -> Carrier:
        """What a drain carries the tenants of this run with."""
        most_rows = BITE if at_once.fits(runbook) else None
        return Carrier(
            db=self.db, settings=self.settings, hints=self.hints, isolation=self.isolation, stop=self.stop,
            runbook=runbook, pace=Pace(self.settings, bundled=runbook.bundled, most_rows=most_rows),
            pacer=Pacer(self.throttle, self.db, self.settings, self.stop, run_id, runbook),
            ends=time.monotonic() + SLICE_S,
        )  # fmt: skip

    async def _give_back(self, held: Sequence[Lease], *, after_s: float) -> None:
        async with self.db.bare() as bare:
            await leases.release(bare, held, after_s=after_s)
        self.hints.changed(held[0].run_id)

    async def _begin(self, run_id: uuid.UUID) -> None:
        async with self.db.transaction() as tx:
            moved = await lifecycle.begin(tx.session, run_id)
        if moved:
            self.hints.moved(run_id)
        else:
            await self._begun_elsewhere(run_id)

    async def _begun_elsewhere(self, run_id: uuid.UUID) -> None:
        """Wait for another drain that is just beginning the run: leaving now, this one would not be rung for again."""
        ends = time.monotonic() + BEGIN_S
        while time.monotonic() < ends and not self.stop.is_set():
            async with self.db.reading() as session:
                status = await session.scalar(select(OperationRun.status).where(OperationRun.id == run_id))
            if status != Status.QUEUED:
                return
            await asyncio.sleep(LOOK_AGAIN_S)

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
