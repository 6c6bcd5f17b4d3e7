"""The pace of one drain: what it does with the verdicts of its process's throttle."""

import asyncio
import contextlib
import time
import uuid

from sqlalchemy import select
from sqlalchemy.orm import class_mapper

from opsplane.config import Settings
from opsplane.db import Database
from opsplane.runbooks.base import RepairRunbook, Runbook
from opsplane.runs import metrics
from opsplane.runs.models import OperationRun
from opsplane.runs.states import Status
from opsplane.runs.throttling.throttle import READ_EVERY_S, Throttle
from opsplane.runs.throttling.verdicts import LONGEST_REST_S, Level, Verdict

NAP_S = 1.0
LEASE_PART = 4


class Pacer:
    """Rests after chunks, and waits before claims; it holds no transaction meanwhile, and no tenant while it waits."""

    def __init__(
        self,
        throttle: Throttle,
        db: Database,
        settings: Settings,
        stop: asyncio.Event,
        run_id: uuid.UUID,
        runbook: Runbook,
    ) -> None:
        self._throttle, self._db, self._stop = throttle, db, stop
        self._run_id, self._table = run_id, table_of(runbook)
        self._longest_s = min(LONGEST_REST_S, settings.lease_s / LEASE_PART)
        self._began: float | None = None
        self.is_slow = False

    async def before_claim(self, *, ends: float) -> bool:
        """Wait while the run is to pause; False if that outlasts the slice.

        A run that is asked to pause or cancel has nothing to wait for: there is nothing to claim in it.
        """
        verdict = await self._look()
        while verdict.level is Level.PAUSE and not self._stop.is_set():
            if time.monotonic() > ends:
                return False
            await self._wait(READ_EVERY_S, verdict)
            if not await self._running():
                return True
            self._began = None
            verdict = await self._look()
        return True

    async def before_chunk(self) -> bool:
        """Rest as long as the work since the last one asks for; False if the tenants in hand must be given back."""
        verdict = await self._look()
        if verdict.level is Level.PAUSE:
            return False
        self.is_slow = verdict.level is Level.SLOW
        worked_s = 0.0 if self._began is None else time.monotonic() - self._began
        goes_on = await self._rest(verdict.rest_s(worked_s, longest_s=self._longest_s), verdict)
        self._began = time.monotonic()
        return goes_on

    async def _look(self) -> Verdict:
        """A look is no work, however long it takes."""
        begins = time.monotonic()
        verdict = await self._throttle.look(self._run_id, self._table)
        if self._began is not None:
            self._began += time.monotonic() - begins
        return verdict

    async def _rest(self, seconds: float, verdict: Verdict) -> bool:
        while seconds > 0 and not self._stop.is_set():
            await self._wait(min(seconds, NAP_S), verdict)
            seconds -= NAP_S
            if seconds > 0 and not await self._running():
                break
        return not self._stop.is_set()

    async def _wait(self, seconds: float, verdict: Verdict) -> None:
        with contextlib.suppress(TimeoutError), metrics.throttled_for(verdict.signal):
            await asyncio.wait_for(self._stop.wait(), seconds)

    async def _running(self) -> bool:
        async with self._db.reading() as session:
            status = await session.scalar(select(OperationRun.status).where(OperationRun.id == self._run_id))
        return status == Status.RUNNING


def table_of(runbook: Runbook) -> str | None:
    """The table that a runbook repairs, as its model names it; one by hand does not tell."""
    if not isinstance(runbook, RepairRunbook):
        return None
    return str(class_mapper(runbook.table).local_table.fullname)  # type: ignore[attr-defined]
