"""opsplane behind pgbouncer in transaction mode."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
from sqlalchemy import text

from opsplane import migrate
from opsplane.auth.actors import Actor
from opsplane.config import Pooler, Settings
from opsplane.db import Database, sqlstate
from opsplane.errors import ServiceUnavailable
from opsplane.runbooks.service import Plane
from opsplane.runs.throttling import readings
from opsplane.tenants.models import Tenant
from tests import support
from tests.faults import pooler
from tests.integration.conftest import Commands
from tests.integration.test_processes import effects, until

pytestmark = pytest.mark.skipif(not pooler.installed(), reason=pooler.MISSING)
SESSIONS = 3  # fewer than there are clients, so that transactions change sessions


@pytest.fixture
def pooled(settings: Settings) -> Iterator[Settings]:
    with pooler.pooled(settings, sessions=SESSIONS) as pooled:
        yield pooled


async def test_a_whole_run_by_a_worker_process_goes_through_the_pooler(
    plane: Plane, operator: Actor, tenants: list[Tenant], pooled: Settings
) -> None:
    through = Plane(Database(pooled), plane.queue, pooled)
    commands = Commands(pooled)
    commands.start("worker", OPSPLANE_DATABASE_POOLER="transaction")
    try:
        run = (await support.start(through, operator, "test.effects.plain")).run

        async def completed() -> bool:
            return (await support.show(through, run.id)).status == "completed"

        await until(completed)
        assert (await support.show(through, run.id)).outcome == "succeeded"
        assert await effects(plane) == 3 * 40
    finally:
        commands.end()
        await through.db.close()


async def test_the_throttle_reads_through_the_pooler_and_knows_whose_sessions_are_ours(
    plane: Plane, pooled: Settings
) -> None:
    db = Database(pooled)
    limited = pooled.model_copy(update={"throttle_wal_mb_s": 1})

    async def sleep() -> None:
        async with db.reading() as session:
            await session.execute(text("SELECT pg_sleep(2)"))

    ours = asyncio.create_task(sleep())
    await asyncio.sleep(0.5)
    for _ in range(10):
        async with db.reading() as session:
            reading = await readings.read(session, limited)
        assert reading.wal_mb
        assert reading.active == 0
    await ours
    await db.close()


async def test_statements_and_sessions_may_part_after_each_transaction(plane: Plane, pooled: Settings) -> None:
    db = Database(pooled, statement_timeout_s=9)
    found: set[tuple[object, ...]] = set()
    asked = text(
        "SELECT pg_backend_pid(), current_setting('statement_timeout'), current_setting('lock_timeout'),"
        " current_setting('idle_in_transaction_session_timeout'), current_setting('timezone'),"
        " (SELECT count(*) FROM pg_prepared_statements)"
    )

    async def ask() -> None:
        for _ in range(20):
            async with db.reading() as session:
                found.add(tuple((await session.execute(asked)).one()))

    await asyncio.gather(*(ask() for _ in range(8)))
    await db.close()
    assert len({row[0] for row in found}) > 1
    assert {row[1:] for row in found} == {("9s", "5s", "15s", "UTC", 0)}


async def test_a_preflight_behind_the_pooler_is_cut_off_in_time(
    plane: Plane, pooled: Settings, tenants: list[Tenant]
) -> None:
    db = Database(pooled, statement_timeout_s=1)
    with pytest.raises(Exception, match="statement timeout") as caught:
        async with db.reading() as session:
            await session.execute(text("SELECT pg_sleep(3)"))
    assert sqlstate(caught.value) == "57014"
    async with db.reading(timeout_s=5) as session:
        await session.execute(text("SELECT pg_sleep(1.5)"))
    await db.close()


async def test_many_migrations_at_once_through_the_pooler_migrate_once(
    settings: Settings, new_database: Callable[[], Awaitable[str]]
) -> None:
    fresh = settings.model_copy(update={"database_url": await new_database()})
    with pooler.pooled(fresh, sessions=2) as pooled:
        done = await asyncio.gather(*(migrate.upgrade(pooled) for _ in range(6)))
    assert sorted(done) == [False] * 5 + [True]


async def test_a_pooler_without_the_setting_is_one_line_that_names_the_setting(pooled: Settings) -> None:
    direct = pooled.model_copy(update={"database_pooler": Pooler.NONE})
    for use in (migrate.upgrade(direct), migrate.is_current(Database(direct))):
        with pytest.raises(ServiceUnavailable, match="OPSPLANE_DATABASE_POOLER=transaction") as caught:
            await use
        assert "\n" not in caught.value.message
    commands = Commands(direct)
    try:
        answer = await asyncio.to_thread(commands.run, "doctor")
    finally:
        commands.end()
    assert "OPSPLANE_DATABASE_POOLER=transaction" in answer.stdout + answer.stderr
    assert "Traceback" not in answer.stdout + answer.stderr
