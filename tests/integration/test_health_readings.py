"""What the throttle reads of a real PostgreSQL: sessions that wait, work and vacuum, WAL, and what a role cannot see."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event, text

from opsplane.auth.actors import Actor
from opsplane.db import new_id
from opsplane.runbooks.service import Plane
from opsplane.runs import leases
from opsplane.runs.throttling import checkup, marks, readings, signals
from opsplane.runs.throttling.readings import Reading
from opsplane.runs.throttling.signals import Signal
from opsplane.tenants.models import Tenant
from tests import support
from tests.integration.test_processes import until

CALM = "nothing to slow down for, by the limits set here"
Session = Callable[[str], Awaitable[Any]]


async def read(plane: Plane, **settings: Any) -> Reading:
    async with plane.db.reading() as session:
        return await readings.read(session, plane.settings.model_copy(update=settings))


@pytest.fixture
async def session(plane: Plane) -> AsyncIterator[Session]:
    """Open sessions of somebody else, by the names they give themselves; they end with the test."""
    async with contextlib.AsyncExitStack() as opened:

        async def connect(name: str) -> Any:
            found = await asyncpg.connect(plane.settings.database_url, server_settings={"application_name": name})
            opened.callback(found.terminate)
            return found

        yield connect


async def ended(task: asyncio.Future[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, asyncpg.PostgresError):
        await task


@pytest.fixture
def asked(plane: Plane) -> Iterator[list[str]]:
    """The statements from now on, without those that begin a reading."""
    found: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith("SET"):
            found.append(statement)

    event.listen(plane.db.engine.sync_engine, "before_cursor_execute", note)
    yield found
    event.remove(plane.db.engine.sync_engine, "before_cursor_execute", note)


async def test_a_database_without_trouble_is_healthy_and_read_in_one_statement(plane: Plane, asked: list[str]) -> None:
    reading = await read(plane)
    assert len(asked) == 1
    assert signals.judge(reading, "findings", plane.settings) == []
    assert (reading.replica, reading.wal_mb, reading.max_connections) == (None, None, 200)


async def test_looks_at_sessions_end_though_the_database_is_slow_to_answer(
    plane: Plane, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await read(plane, throttle_active_connections=1)
    assert asked.count(str(readings.ACTIVE)) == readings.LOOKS
    asked.clear()
    monkeypatch.setattr(readings, "LOOKING_S", 0)
    await read(plane, throttle_active_connections=1)
    assert asked.count(str(readings.ACTIVE)) == 1


async def test_workers_with_tenants_in_hand_are_counted_where_they_share_what_is_left(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    async with plane.db.transaction() as tx:
        assert await leases.claim_some(tx.session, run_id, new_id(), 2, lease_s=20)
        await support.claimed(tx.session, run_id)
    assert (await read(plane, throttle_active_connections=1)).at_work == 2
    assert (await read(plane)).at_work == 0


async def test_sessions_at_work_are_counted_on_average_where_they_have_a_limit(
    plane: Plane, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings, "LOOKS", 30)
    always, sometimes = await session("always"), await session("sometimes")
    running = asyncio.ensure_future(always.execute("SELECT pg_sleep(60)"))

    async def now_and_then() -> None:
        while True:
            await sometimes.execute("SELECT pg_sleep(0.03)")
            await asyncio.sleep(0.03)

    task = asyncio.ensure_future(now_and_then())
    await asyncio.sleep(0.2)
    assert 1 < (await read(plane, throttle_active_connections=1)).active < 2
    assert (await read(plane)).active == 0
    await ended(task)
    await ended(running)


async def test_who_waits_for_a_lock_of_ours_is_seen_and_who_waits_for_another_is_not(
    plane: Plane, tenants: list[Tenant], session: Session
) -> None:
    shop, billing, other = await session("shop"), await session("billing"), await session("other")
    lock = "UPDATE tenants SET name = name WHERE external_id = $1"
    transaction = other.transaction()
    await transaction.start()
    await other.execute(lock, "globex")
    waits_for_other = asyncio.ensure_future(billing.execute(lock, "globex"))
    await asyncio.sleep(0.3)
    assert (await read(plane)).lock_wait_s == 0
    async with plane.db.transaction() as tx:
        await tx.session.execute(text(lock.replace("$1", "'acme'")))
        waits_for_us = asyncio.ensure_future(shop.execute(lock, "acme"))

        async def seen() -> bool:
            return (await read(plane)).lock_wait_s > 0.2

        await until(seen)
        found = signals.judge(await read(plane), None, plane.settings.model_copy(update={"throttle_lock_wait_s": 0.1}))
    await waits_for_us
    assert [one.signal for one in found] == [Signal.LOCK_WAITS]
    assert (await read(plane)).lock_wait_s == 0
    await transaction.rollback()
    await waits_for_other


async def test_sessions_of_others_that_execute_something_are_counted(plane: Plane, session: Session) -> None:
    before = await read(plane, throttle_active_connections=1)
    busy = [await session("shop") for _ in range(3)]
    await session("shop")  # only connected
    working = [asyncio.ensure_future(one.execute("SELECT pg_sleep(60)")) for one in busy]

    async def seen() -> bool:
        now = await read(plane, throttle_active_connections=1)
        return (now.active - before.active, now.connections - before.connections) == (3, 4)

    await until(seen)
    for one in working:
        await ended(one)


async def test_a_vacuum_of_a_table_is_seen_under_every_name_of_it(
    plane: Plane, tenants: list[Tenant], session: Session
) -> None:
    await support.add_findings(plane, tenants[0], 2000)
    vacuuming, partitioned = await session("shop"), await session("shop")
    await partitioned.execute("CREATE TABLE IF NOT EXISTS parted (n int) PARTITION BY RANGE (n)")
    await partitioned.execute("CREATE TABLE IF NOT EXISTS parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100000)")
    await partitioned.execute("INSERT INTO parted SELECT generate_series(0, 99999)")
    assert (await read(plane)).vacuums == {}
    for one in (vacuuming, partitioned):
        await one.execute("SET vacuum_cost_delay = '100ms'; SET vacuum_cost_limit = 1")
    running = [
        asyncio.ensure_future(vacuuming.execute("VACUUM findings")),
        asyncio.ensure_future(partitioned.execute("VACUUM parted_1 -- (to prevent wraparound)")),
    ]
    expected = {"findings": False, "public.findings": False, "parted": True, "public.parted": True}

    async def seen() -> bool:
        return (await read(plane)).vacuums == expected

    try:
        await until(seen)
    finally:
        for one in running:
            await ended(one)
        await (await session("shop")).execute("DROP TABLE parted")


async def test_the_rate_of_wal_is_what_was_written_between_two_readings(plane: Plane, session: Session) -> None:
    first = await read(plane, throttle_wal_mb_s=1)
    await (await session("shop")).execute(
        "CREATE TABLE much AS SELECT repeat(md5(n::text), 20) FROM generate_series(1, 40000) n"
    )
    second = (await read(plane, throttle_wal_mb_s=1)).since(first)
    await (await session("shop")).execute("DROP TABLE much")
    assert second.wal_mb is not None
    assert first.wal_mb is not None
    assert 20 < second.wal_mb - first.wal_mb < 60
    assert second.wal_mb_s == pytest.approx((second.wal_mb - first.wal_mb) / (second.at - first.at))


async def test_a_role_without_privileges_reads_as_well_and_the_doctor_says_what_it_cannot_see(
    plane: Plane, session: Session
) -> None:
    administrator = await session("shop")
    await administrator.execute("CREATE ROLE humble LOGIN; GRANT SELECT ON operation_run_items TO humble")
    busy = asyncio.ensure_future((await session("shop")).execute("SELECT pg_sleep(60)"))
    await asyncio.sleep(0.2)
    try:
        async with plane.db.reading() as humble:
            await humble.execute(text("SET LOCAL ROLE humble"))
            limits = {"throttle_wal_mb_s": 1, "throttle_active_connections": 1}
            reading = await readings.read(humble, plane.settings.model_copy(update=limits))
            sees, role = (await humble.execute(checkup.SEES)).one()
        assert (reading.active, reading.lock_wait_s, reading.vacuums) == (0, 0, {})
        assert reading.connections >= 2
        assert reading.wal_mb is not None
        assert (sees, role) == (False, "humble")
    finally:
        await ended(busy)
        await administrator.execute("DROP OWNED BY humble; DROP ROLE humble")


async def test_the_doctor_says_what_it_would_do_now(plane: Plane, session: Session) -> None:
    assert await checkup.examine(plane.db, plane.settings) == (True, f"on; now: {CALM}")
    off = plane.settings.model_copy(update={"throttle": False})
    assert (await checkup.examine(plane.db, off))[1].startswith("off: ")
    busy = [asyncio.ensure_future((await session("shop")).execute("SELECT pg_sleep(60)")) for _ in range(2)]
    await asyncio.sleep(0.2)
    strict = plane.settings.model_copy(update={"throttle_active_connections": 1})
    assert (await checkup.examine(plane.db, strict))[1] == "on; now: 2 other sessions are executing something"
    for one in busy:
        await ended(one)


async def test_the_doctor_counts_runs_that_workers_slow_down_by_limits_of_their_own(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    assert await checkup.slowed_down(plane.db) == ""
    async with plane.db.transaction() as tx:
        await marks.put(tx.session, run_id, "4 other sessions are executing something")
    assert await checkup.slowed_down(plane.db) == (
        ". Workers slow down or hold up 1 of the runs: opsplane runs list --status running"
    )
