"""Transactions past SQLAlchemy: all or nothing like any other, whatever happens to their connection."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import insert, literal, literal_column, text
from sqlalchemy.exc import DBAPIError

from opsplane import connections, db, direct
from opsplane.config import Pooler
from opsplane.db import Database, new_id, sqlstate
from opsplane.direct import Bare, Begun, directly
from opsplane.errors import ServiceUnavailable
from opsplane.lookups import Lookup
from opsplane.outbox import OutboxEvent
from opsplane.runbooks.service import Plane
from opsplane.runs import troubles
from tests import support

PID = Lookup("SELECT pg_backend_pid() AS pid", (), {})
LOCK_TIMEOUT = Lookup("SHOW lock_timeout", (), {})
ISOLATION = Lookup("SHOW transaction_isolation", (), {})
BROKEN = Lookup("SELECT 1 / 0", (), {})
ENDLESS = Lookup("SELECT pg_sleep(60)", (), {})


def named(key: str) -> Lookup:
    values: dict[str, Any] = {"kind": "k", "dedupe_key": literal(key), "payload": literal_column("'{}'::jsonb")}
    return Lookup.of(insert(OutboxEvent).values(id=new_id(), **values))


async def kept(plane: Plane, key: str) -> bool:
    return await support.count(plane, OutboxEvent, OutboxEvent.dedupe_key == key) == 1


async def pid_of(bare: Bare) -> int:
    [row] = await directly(bare, PID)
    return int(row["pid"])


async def test_what_it_did_lasts_and_then_it_tells(plane: Plane) -> None:
    told = []

    async def tell() -> None:
        told.append(await kept(plane, "kept"))

    async with plane.db.bare() as bare:
        db.after_commit(bare, tell)
        await directly(bare, named("kept"))
        assert not told
    assert told == [True]


async def test_what_fails_leaves_nothing_tells_nobody_and_gives_its_connection_back_clean(plane: Plane) -> None:
    told = []

    async def tell() -> None:
        told.append(True)

    with pytest.raises(DBAPIError) as refused:
        async with plane.db.bare() as bare:
            db.after_commit(bare, tell)
            before = await pid_of(bare)
            await directly(bare, named("undone"))
            await directly(bare, BROKEN)
    assert sqlstate(refused.value) == "22012"
    assert not told
    assert not await kept(plane, "undone")
    async with plane.db.bare() as bare:
        assert await pid_of(bare) == before


async def test_what_its_caller_raises_leaves_nothing_either(plane: Plane) -> None:
    with pytest.raises(ValueError, match="of the test"):
        async with plane.db.bare() as bare:
            await directly(bare, named("undone"))
            raise ValueError("of the test")
    assert not await kept(plane, "undone")


async def test_a_failure_that_somebody_hid_is_not_taken_for_a_commit(plane: Plane) -> None:
    with pytest.raises(RuntimeError, match="had failed"):
        async with plane.db.bare() as bare:
            await directly(bare, named("undone"))
            with pytest.raises(DBAPIError):
                await directly(bare, BROKEN)
    assert not await kept(plane, "undone")


async def test_what_asks_nothing_begins_nothing(plane: Plane) -> None:
    async with plane.db.transaction() as tx:
        driver = connections.driver_of((await tx.session.connection()).sync_connection)
    heard: list[str] = []
    assert driver is not None
    with driver.query_logger(lambda query: heard.append(query.query)):
        async with plane.db.bare():
            pass
        assert not heard
        async with plane.db.bare() as bare:
            await pid_of(bare)
        await asyncio.sleep(0)  # it is told a little later
    assert (heard[0], heard[-1]) == ("BEGIN ISOLATION LEVEL READ COMMITTED;", "COMMIT")


@pytest.mark.parametrize("begun", [False, True], ids=["with BEGIN", "after BEGIN"])
async def test_a_local_setting_holds_for_it_alone(plane: Plane, begun: bool) -> None:
    async with plane.db.bare() as bare:
        if begun:
            await pid_of(bare)
        await direct.set_local(bare, "lock_timeout = '7s'")
        assert (await directly(bare, LOCK_TIMEOUT))[0]["lock_timeout"] == "7s"
        assert (await directly(bare, ISOLATION))[0]["transaction_isolation"] == "read committed"
    async with plane.db.bare() as bare:
        assert (await directly(bare, LOCK_TIMEOUT))[0]["lock_timeout"] == "5s"


async def test_a_connection_that_is_lost_within_it_is_a_database_away_and_replaced(plane: Plane) -> None:
    with pytest.raises(ServiceUnavailable):
        async with plane.db.bare() as bare:
            pid = await pid_of(bare)
            async with plane.db.transaction() as other:
                await other.session.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
            await pid_of(bare)
    async with plane.db.bare() as bare:
        await pid_of(bare)
    assert plane.db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_connection_that_is_lost_before_the_commit_is_a_database_away(plane: Plane) -> None:
    told: list[bool] = []

    async def tell() -> None:
        told.append(True)

    with pytest.raises(ServiceUnavailable):
        async with plane.db.bare() as bare:
            db.after_commit(bare, tell)
            pid = await pid_of(bare)
            async with plane.db.transaction() as other:
                await other.session.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    assert not told


async def until_asleep(plane: Plane, pid: int) -> None:
    asleep = Lookup("SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'", ("pid",), {})
    async with asyncio.timeout(10):
        while not await plane.db.look(asleep, pid=pid):  # noqa: ASYNC110 - it happens at the server
            await asyncio.sleep(0.01)


async def test_who_is_cancelled_leaves_nothing_and_no_statement_runs_on(plane: Plane) -> None:
    asked = asyncio.Event()
    pids = []

    async def wait() -> None:
        async with plane.db.bare() as bare:
            await directly(bare, named("undone"))
            pids.append(await pid_of(bare))
            asked.set()
            await directly(bare, ENDLESS)

    task = asyncio.create_task(wait())
    await asked.wait()
    await until_asleep(plane, pids[0])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    idle = Lookup("SELECT state FROM pg_stat_activity WHERE pid = $1", ("pid",), {})
    assert [row["state"] for row in await plane.db.look(idle, pid=pids[0])] == ["idle"]
    assert not await kept(plane, "undone")
    assert plane.db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_who_is_cancelled_as_a_transaction_begins_leaves_none_open(plane: Plane) -> None:
    await plane.db.look(PID)  # which takes its connection out of the pool
    async with plane.db.bare() as bare:
        pid = await pid_of(bare)

    async def begin() -> None:
        async with plane.db.bare() as bare:
            await direct.set_local(bare, "lock_timeout = 0; SELECT pg_sleep(60)")
            await directly(bare, PID)

    task = asyncio.create_task(begin())
    await until_asleep(plane, pid)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with plane.db.transaction() as tx:
        assert await tx.session.scalar(text("SELECT pg_backend_pid()")) == pid


@pytest.mark.parametrize("pooler", Pooler)
async def test_statements_that_are_each_alone_last_by_themselves_but_behind_a_pooler_together(
    plane: Plane, pooler: Pooler
) -> None:
    own = Database(plane.settings.model_copy(update={"database_pooler": pooler}))
    with pytest.raises(DBAPIError):
        async with own.bare(each_alone=True) as bare:
            await directly(bare, named("kept"))
            await directly(bare, BROKEN)
    assert await kept(plane, "kept") == (pooler is Pooler.NONE)
    async with own.bare(each_alone=True) as bare:
        assert (await directly(bare, LOCK_TIMEOUT))[0]["lock_timeout"] == "5s"
        assert (await directly(bare, ISOLATION))[0]["transaction_isolation"] == "read committed"
    await own.close()


async def test_statements_alone_read_what_is_committed_whatever_the_database_is_set_to(plane: Plane) -> None:
    async with plane.db.transaction() as tx:
        name = await tx.session.scalar(text("SELECT current_database()"))
        await tx.session.execute(text(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'"))
    own = Database(plane.settings)
    try:
        async with own.bare(each_alone=True) as bare:
            assert (await directly(bare, ISOLATION))[0]["transaction_isolation"] == "read committed"
    finally:
        await own.close()
        async with plane.db.transaction() as tx:
            await tx.session.execute(text(f"ALTER DATABASE {name} RESET default_transaction_isolation"))


async def test_what_each_statement_alone_has_done_is_told_after_it(plane: Plane) -> None:
    told = []

    async def tell() -> None:
        told.append(await kept(plane, "kept"))

    async with plane.db.bare(each_alone=True) as bare:
        db.after_commit(bare, tell)
        await directly(bare, named("kept"))
    assert told == [True]


async def test_who_is_cancelled_in_a_statement_alone_leaves_none_running(plane: Plane) -> None:
    running = Lookup(
        "SELECT count(*) AS n FROM pg_stat_activity WHERE query ~ 'pg_sleep.60' AND state = 'active'", (), {}
    )

    async def endless() -> None:
        async with plane.db.bare(each_alone=True) as bare:
            await directly(bare, ENDLESS)

    asking = asyncio.create_task(endless())
    await asyncio.sleep(0.3)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    async with plane.db.bare() as bare:
        assert (await directly(bare, running))[0]["n"] == 1  # this one says so itself


async def test_nothing_is_set_for_the_rest_of_a_statement_alone(plane: Plane) -> None:
    with pytest.raises(AssertionError):
        async with plane.db.bare(each_alone=True) as bare:
            await direct.set_local(bare, "lock_timeout = 1")


async def test_a_server_that_lets_nobody_in_is_a_database_away(plane: Plane) -> None:
    url = str(plane.settings.database_url).replace("/opsplane", "/no_such_database")
    assert url != plane.settings.database_url
    own = Database(plane.settings.model_copy(update={"database_url": url}))
    with pytest.raises(ServiceUnavailable):
        async with own.bare() as bare:
            await pid_of(bare)
    await own.close()


async def test_a_first_statement_that_failed_leaves_no_transaction_behind(plane: Plane) -> None:
    with pytest.raises(RuntimeError, match="had failed"):
        async with plane.db.bare() as bare:
            await direct.set_local(bare, "no_such_setting = 1")
            with pytest.raises(DBAPIError):
                await pid_of(bare)
    async with plane.db.bare() as bare:
        await pid_of(bare)


async def test_none_is_left_checked_out(plane: Plane) -> None:
    for statement in (PID, BROKEN) * plane.settings.pool_size:
        try:
            async with plane.db.bare() as bare:
                await directly(bare, statement)
        except DBAPIError:
            pass
    assert plane.db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def _ask_in_an_authors_call(session: Begun) -> None:
    driver = session._driver if isinstance(session, Bare) else session.info[direct.DRIVER]
    driver.terminate()
    with troubles.authored():
        await directly(session, PID)


async def test_a_connection_found_closed_is_not_its_authors_fault(plane: Plane) -> None:
    with pytest.raises(ServiceUnavailable):
        async with plane.db.bare() as bare:
            await pid_of(bare)
            await _ask_in_an_authors_call(bare)
    with pytest.raises(ServiceUnavailable):
        async with plane.db.transaction() as tx:
            await directly(tx.session, PID)
            await directly(tx.session, PID)
            await _ask_in_an_authors_call(tx.session)


async def test_a_value_that_fits_no_parameter_is_no_database_away(plane: Plane) -> None:
    with pytest.raises(DBAPIError, match="invalid input for query argument"):
        async with plane.db.bare() as bare:
            await directly(bare, Lookup("SELECT $1::int", ("number",), {}), number="seven")
