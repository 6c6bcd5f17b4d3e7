"""The throttle of a worker process: one reading every few seconds for all of its drains, and what follows for each."""

import asyncio
import time
import uuid
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

from opsplane.config import Settings
from opsplane.db import Database, first_line
from opsplane.errors import OpsplaneError
from opsplane.hints import Announcer
from opsplane.runs import metrics
from opsplane.runs.throttling import marks, readings, signals
from opsplane.runs.throttling.readings import Reading
from opsplane.runs.throttling.signals import Signal
from opsplane.runs.throttling.verdicts import Level, Verdict

log = structlog.get_logger()

READ_EVERY_S = 2.0
READ_WITHIN_S = 1.0
TELL_EVERY_S = 5.0
FORGET_AFTER_S = 30.0
GO = Verdict()
for known in Signal:
    metrics.throttled.labels(known)
    metrics.throttled_seconds.labels(known)


@dataclass(frozen=True)
class Told:
    """What was last said of a run, and when."""

    verdict: Verdict
    at: float

    def holds(self, verdict: Verdict) -> bool:
        """Whether it need not be said again yet."""
        same = (verdict.signal, verdict.level) == (self.verdict.signal, self.verdict.level)
        return same and time.monotonic() - self.at < TELL_EVERY_S


class Throttle:
    """Judges the database for the drains of one process; nothing of it ever fails a drain."""

    def __init__(self, db: Database, settings: Settings, hints: Announcer) -> None:
        self._db, self._settings, self._hints = db, settings, hints
        self._last: Reading | None = None
        self._read_at = 0.0
        self._verdicts: dict[str | None, Verdict] = {}
        self._told: dict[uuid.UUID, Told] = {}
        self._blind = False
        self._reading = asyncio.Lock()

    async def look(self, run_id: uuid.UUID, table: str | None) -> Verdict:
        """How fast a run over this table may go now; asks the database every two seconds at most."""
        if not self._settings.throttle:
            return GO
        async with self._reading:  # who comes meanwhile waits: there may be nothing yet to judge by
            await self._read_if_due()
        if table not in self._verdicts:
            self._judge(table)
        verdict = self._verdicts[table]
        await self._tell(run_id, verdict)
        return verdict

    async def _read_if_due(self) -> None:
        now = time.monotonic()
        idle_s = now - self._read_at
        if self._read_at and idle_s < READ_EVERY_S:
            return
        if idle_s > FORGET_AFTER_S:
            self._verdicts.clear()
        self._read_at = now
        await self._ask()
        for table in self._verdicts:
            self._judge(table)
        self._measure()
        self._told = {run: told for run, told in self._told.items() if time.monotonic() - told.at < FORGET_AFTER_S}

    async def _ask(self) -> None:
        try:
            async with self._db.reading(timeout_s=READ_WITHIN_S) as session:
                read = await readings.read(session, self._settings)
        except (OpsplaneError, SQLAlchemyError) as error:
            self._last = None  # unknown is healthy: a run must not wait for what nobody can see
            if not self._blind:
                log.warning("throttle_blind", error=first_line(error))
            self._blind = True
        else:
            self._last, self._blind = read.since(self._last), False

    def _judge(self, table: str | None) -> None:
        found = [] if self._last is None else signals.judge(self._last, table, self._settings)
        self._verdicts[table] = self._verdicts.get(table, GO).after(found[0] if found else None)

    def _measure(self) -> None:
        seen = {verdict.signal for verdict in self._verdicts.values()}
        for signal in Signal:
            metrics.throttled.labels(signal).set(signal in seen)

    async def _tell(self, run_id: uuid.UUID, verdict: Verdict) -> None:
        """Write it down for who is watching: when it changes, and now and then while it lasts."""
        told = self._told.get(run_id)
        if verdict.level is Level.GO:
            if told is None:
                return
            del self._told[run_id]
        elif told is not None and told.holds(verdict):
            return
        else:
            self._told[run_id] = Told(verdict, time.monotonic())
        if told is None or told.verdict.level is not verdict.level or told.verdict.signal is not verdict.signal:
            log.info("run_throttled", run_id=str(run_id), pace=verdict.level, reason=verdict.reason)
        await self._write(run_id, verdict.reason)

    async def _write(self, run_id: uuid.UUID, reason: str | None) -> None:
        try:
            async with self._db.transaction() as tx:
                lifted = reason is None and await marks.lift(tx.session, run_id)
                changed = lifted or (reason is not None and await marks.put(tx.session, run_id, reason))
        except (OpsplaneError, SQLAlchemyError) as error:
            log.warning("throttle_not_told", run_id=str(run_id), error=first_line(error))
            return
        if changed:
            self._hints.moved(run_id)
