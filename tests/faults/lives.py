"""What a process does until it is struck, how others carry its runs on, and what must be true in the end."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import asyncpg
from sqlalchemy import ColumnElement, Select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Mapped, mapped_column

from opsplane import Chunk, Cursor, Impact, RepairRunbook, Retry, Runbook, register
from opsplane.auth.actors import Actor
from opsplane.config import Settings
from opsplane.db import Database
from opsplane.queue import Queue
from opsplane.runbooks import service
from opsplane.runbooks.service import Plane
from opsplane.runs import leases, processes, sweeper
from opsplane.runs.drain import Drainer
from tests import support
from tests.faults.points import Case, Fault

TENANTS = ("acme", "globex")
ROWS = 4
LIMIT_S, PAUSE_S, SLOW_S = 60, 0.3, 0.3
OPERATOR = Actor.shell("tester")

EFFECT = text("INSERT INTO effects (tenant_id, n) SELECT :tenant, generate_series(:first ::int, :last ::int)")

Hook = Callable[[uuid.UUID, int], None]
_hooks: list[Hook] = []  # what the runbook does besides, in the process that is struck


class Rows(Runbook):
    """Leaves ROWS numbered rows per tenant, `step` at a time; those of the second runbook start at 200."""

    title = "Rows"
    capability = "platform.runbooks.test.points"
    confirmation_phrase = "BACKFILL"
    bundled = False
    start: ClassVar[int]
    pause_s: ClassVar[float] = 0
    step: ClassVar[int] = 2

    async def preflight(self, session: AsyncSession, tenants: Select[uuid.UUID]) -> Impact:
        return Impact(affected=ROWS, total=ROWS, tenants=len(TENANTS))

    async def apply(self, session: AsyncSession, tenant: uuid.UUID, cursor: Cursor | None, limit: int) -> Chunk:
        first = cursor["next"] if cursor else 0
        for hook in _hooks:
            hook(tenant, first)
        given = {"tenant": tenant, "first": self.start + first, "last": self.start + first + self.step - 1}
        await session.execute(EFFECT, given)
        await asyncio.sleep(self.pause_s)
        done = first + self.step
        return Chunk(updated=self.step, cursor={"next": done} if done < ROWS else None)

    async def apply_together(self, session: AsyncSession, tenants: Sequence[uuid.UUID], limit: int) -> Sequence[Chunk]:
        return [await self.apply(session, tenant, None, limit) for tenant in tenants]


@register
class First(Rows):
    key = "test.points.first"
    start = 100


@register
class Second(Rows):
    key = "test.points.second"
    start = 200


class Base(DeclarativeBase):
    """Of this module."""


class Thing(Base):
    """Each tenant has ROWS that are broken, from 300 and from 310 on, and others; every change leaves an effect."""

    __tablename__ = "things"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[uuid.UUID]
    broken: Mapped[bool]


@register
class Repair(RepairRunbook):
    """Carried by statements that are transactions by themselves; nobody is called for it."""

    key = "test.points.repair"
    title = "Repair"
    capability = "platform.runbooks.test.points"
    confirmation_phrase = "BACKFILL"
    table = Thing

    def wrong(self) -> ColumnElement[bool]:
        return Thing.broken.is_(True)

    def right(self) -> Mapping[InstrumentedAttribute[Any], Any]:
        return {Thing.broken: False}


def runbooks(case: Case) -> Sequence[str]:
    """Whose runs the life consists of, in order."""
    return (Repair.key,) if case.point.life == "repair" else (First.key, Second.key)[: case.runs]


@asynccontextmanager
async def opened(db: Database, settings: Settings) -> AsyncIterator[Plane]:
    """What a process of its own has."""
    plane = Plane(db, Queue(settings), settings)
    try:
        yield plane
    finally:
        await plane.queue.close()
        await plane.db.close()


async def live(plane: Plane, case: Case, nonce: str) -> None:
    """Everything that happens in the life of as many runs as it takes to reach the point."""
    for runbook in runbooks(case):
        _hooks.clear()
        await LIVES[case.point.life](plane, runbook, nonce)


async def start(plane: Plane, runbook: str, nonce: str) -> uuid.UUID:
    """Ask for the run, as a client does who repeats the request until it is answered."""
    order = support.order(runbook)
    return (await service.start(plane, order, by=OPERATOR, idempotency_key=f"{nonce}:{runbook}")).run.id


async def _work(plane: Plane, runbook: str, nonce: str) -> None:
    await support.drain(plane, await start(plane, runbook, nonce))


async def _bundle(plane: Plane, runbook: str, nonce: str) -> None:
    """All tenants fit into one chunk."""
    Rows.bundled, Rows.step = True, ROWS
    await _work(plane, runbook, nonce)


async def _repair(plane: Plane, runbook: str, nonce: str) -> None:
    """One statement repairs a tenant and the beginning of the other, and the next one what is left of that."""
    small = plane.settings.model_copy(update={"chunk_min_rows": ROWS - 1})  # the first chunk is of twice as many
    await _work(replace(plane, settings=small), runbook, nonce)


async def _stop(plane: Plane, runbook: str, nonce: str) -> None:
    """Three workers are asked to stop after a chunk, which is a tenant's first, its last, and the other's first."""
    run_id = await start(plane, runbook, nonce)
    for _ in range(3):
        worker = support.drainer(plane)
        _hooks[:] = [partial(_ask_to_stop, worker)]
        await worker.drain(run_id)
    _hooks.clear()
    await support.drain(plane, run_id)


def _ask_to_stop(worker: Drainer, _tenant: uuid.UUID, _first: int) -> None:
    worker.stop.set()


async def _retry(plane: Plane, runbook: str, nonce: str) -> None:
    """Every tenant asks once to be tried again."""
    run_id, asked = await start(plane, runbook, nonce), set()

    def not_yet(tenant: uuid.UUID, first: int) -> None:
        if first and tenant not in asked:
            asked.add(tenant)
            raise Retry("not yet")

    _hooks[:] = [not_yet]
    await support.drain(plane, run_id)
    await asyncio.sleep(leases.BACKOFF_S[0])
    await support.drain(plane, run_id)


async def _fail(plane: Plane, runbook: str, nonce: str) -> None:
    """Every tenant fails half-way."""

    def break_down(tenant: uuid.UUID, first: int) -> None:
        if first:
            raise ValueError("broken")

    _hooks[:] = [break_down]
    await _work(plane, runbook, nonce)


async def _beat(plane: Plane, runbook: str, nonce: str) -> None:
    """A heart beats all the while, and goes on when one beat fails."""
    stop, worker = asyncio.Event(), uuid.uuid4()
    beating = asyncio.create_task(processes.beat_until(stop, plane.db, worker, kind=processes.WORKER, slots=1))
    await _work(plane, runbook, nonce)
    await asyncio.sleep(4 * processes.BEAT_S)
    stop.set()
    await beating


async def _sweep(plane: Plane, runbook: str, nonce: str) -> None:
    """A run that only the sweeper carries from one state to the next; every step comes by once, with work to do."""
    run_id = await start(plane, runbook, nonce)
    async with plane.db.transaction() as tx:
        await processes.beat(tx.session, uuid.uuid4(), kind=processes.WORKER, slots=1)
    await _sweep_only(plane, "expand_queued")
    await _sweep_only(plane, "wake_waiting")
    async with plane.db.transaction() as tx:
        await leases.claim(tx.session, run_id, uuid.uuid4(), lease_s=0)
    await _sweep_only(plane, "free_leases")
    await _Forgetful(plane.db, plane.settings, uuid.uuid4(), asyncio.Event(), plane.queue.hints).drain(run_id)
    await _sweep_only(plane, "settle_all")
    await _sweep_only(plane, "seal_audit")


class _Forgetful(Drainer):
    """A worker that dies between its last item and the completion."""

    async def _settle(self, run_id: uuid.UUID) -> None:
        return


async def _sweep_only(plane: Plane, step: str) -> None:
    every = sweeper.STEPS
    sweeper.STEPS = (getattr(sweeper, step),)
    try:
        await sweeper.sweep(plane.db, plane.queue, plane.settings)
    finally:
        sweeper.STEPS = every


LIVES: dict[str, Callable[[Plane, str, str], Awaitable[None]]] = {
    "work": _work,
    "bundle": _bundle, "repair": _repair, "stop": _stop, "retry": _retry, "fail": _fail, "beat": _beat, "sweep": _sweep,
}  # fmt: skip


async def carry_on(plane: Plane, case: Case, nonce: str, at_work: Callable[[], None]) -> None:
    """The client asks again, a sweeper and a worker of another process do the rest.

    That worker says when it is at work, and is slow if the victim only stands still, which comes back right then.
    """
    _hooks[:] = [lambda _tenant, _first: at_work()]
    Rows.pause_s = SLOW_S if case.fault is Fault.DELAY else 0
    for runbook in runbooks(case):
        run_id = await start(plane, runbook, nonce)
        await asyncio.sleep(plane.settings.lease_s)  # until then, nobody can do more
        try:
            async with asyncio.timeout(LIMIT_S):
                while not await _is_completed(plane, run_id):
                    await sweeper.sweep(plane.db, plane.queue, plane.settings)
                    await support.drain(plane, run_id)
                    await asyncio.sleep(PAUSE_S)
        except TimeoutError:
            raise AssertionError(f"the run of {runbook} is not completed after {LIMIT_S} s") from None


async def _is_completed(plane: Plane, run_id: uuid.UUID) -> bool:
    async with plane.db.reading() as session:
        status = await session.scalar(text("SELECT status FROM operation_runs WHERE id = :id"), {"id": run_id})
    return bool(status == "completed")


async def clear(database_url: str) -> None:
    """Take away what a case left; the audit only grows."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(CLEAR_SQL)
    await connection.close()


async def wrongs(database_url: str, case: Case) -> list[str]:
    """What is not as it must be, told by plain SQL that shares nothing with the product; afterwards the lane is free for the next."""
    may_fail = case.point.life == "fail" or case.fault is Fault.DEFECT
    connection = await asyncpg.connect(database_url)
    try:
        tenants = await connection.fetch(TENANT_SQL)
        runs = await connection.fetch(RUN_SQL)
        locks = await connection.fetchval(LOCK_SQL)
    finally:
        await connection.execute(CLEAR_SQL)
        await connection.close()
    found = [f"tenant {dict(row)}" for row in tenants if not _is_right(row, may_fail=may_fail)]
    found += [f"run {dict(row)}" for row in runs if row["wrong"]]
    if [row["type"] for row in runs] != list(runbooks(case)):
        found.append(f"{len(runs)} runs instead of {case.runs}")
    if len(tenants) != case.runs * len(TENANTS):
        found.append(f"{len(tenants)} items instead of {case.runs * len(TENANTS)}")
    return found + ([f"{locks} advisory locks are still held"] if locks else [])


def _is_right(row: Any, *, may_fail: bool) -> bool:
    exactly_once = row["effects"] == row["different"] == row["updated_count"]
    done = row["state"] == "succeeded" and row["effects"] == ROWS and row["failures"] == 0
    failed = row["state"] == "failed" and row["failures"] == 1
    return bool(exactly_once and (done or (failed and may_fail)))


TABLES = (
    "CREATE TABLE effects (tenant_id uuid NOT NULL, n int NOT NULL)",
    "CREATE TABLE things (id int PRIMARY KEY, tenant_id uuid NOT NULL, broken boolean NOT NULL)",
    """CREATE FUNCTION leave_effect() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO effects VALUES (NEW.tenant_id, NEW.id); RETURN NULL; END'""",
    "CREATE TRIGGER leave_effect AFTER UPDATE ON things FOR EACH ROW EXECUTE FUNCTION leave_effect()",
)
THINGS = text(f"INSERT INTO things SELECT :start + n, :tenant, n < {ROWS} FROM generate_series(0, {2 * ROWS}) n")
CLEAR_SQL = f"""
    UPDATE things SET broken = id % 10 < {ROWS}; DELETE FROM effects;
    DELETE FROM operation_runs; DELETE FROM outbox; DELETE FROM processes
"""
NUMBER = "CASE run.type WHEN 'test.points.first' THEN 1 WHEN 'test.points.second' THEN 2 ELSE 3 END"
TENANT_SQL = f"""
    SELECT run.type, tenant.external_id, item.state, item.updated_count,
        (SELECT count(*) FROM effects WHERE tenant_id = item.tenant_id AND n / 100 = number) AS effects,
        (SELECT count(DISTINCT n) FROM effects WHERE tenant_id = item.tenant_id AND n / 100 = number) AS different,
        (SELECT count(*) FROM operation_run_failures WHERE run_id = run.id AND item_key = item.item_key) AS failures
    FROM operation_run_items item
    JOIN operation_runs run ON run.id = item.run_id
    JOIN tenants tenant ON tenant.id = item.tenant_id
    CROSS JOIN LATERAL (SELECT {NUMBER} AS number) numbered
"""
RUN_SQL = f"""
    SELECT *, NOT (
        status = 'completed' AND started = 1 AND ended = 1 AND alarms = (outcome <> 'succeeded')::int
        AND (summary_counts->>'updated')::int = effects AND (summary_counts->>'processed')::int = tenants
        AND (summary_counts->>'succeeded')::int = succeeded AND (summary_counts->>'total')::int = tenants
        AND (summary_counts->>'failed')::int = tenants - succeeded
    ) AS wrong
    FROM (
        SELECT run.type, run.status, run.outcome, run.summary_counts,
            (SELECT count(*) FROM effects WHERE n / 100 = {NUMBER}) AS effects,
            (SELECT count(*) FROM operation_run_items WHERE run_id = run.id) AS tenants,
            (SELECT count(*) FROM operation_run_items WHERE run_id = run.id AND state = 'succeeded') AS succeeded,
            (SELECT count(*) FROM audit_events WHERE subject_id = run.id::text AND action LIKE '%.started') AS started,
            (SELECT count(*) FROM audit_events WHERE subject_id = run.id::text
                AND (action LIKE '%.completed' OR action LIKE '%.failed')) AS ended,
            (SELECT count(*) FROM outbox WHERE payload->>'run_id' = run.id::text
                AND kind = 'operations.run.failed') AS alarms
        FROM operation_runs run ORDER BY run.id
    ) AS told
"""
LOCK_SQL = """
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE locktype = 'advisory' AND datname = current_database()
"""
