"""Connections of the engine: how little a transaction asks for, and what it may rely on."""

import asyncio

import pytest
from sqlalchemy import text

from opsplane import connections, direct
from opsplane.connections import Watched
from opsplane.db import Transaction
from opsplane.runbooks.service import Plane


async def driver_of(tx: Transaction) -> Watched:
    driver = connections.driver_of((await tx.session.connection()).sync_connection)
    assert driver is not None
    return driver


async def pid_of(tx: Transaction) -> int:
    pid = await tx.session.scalar(text("SELECT pg_backend_pid()"))
    assert isinstance(pid, int)
    return pid


async def lock_timeout_of(tx: Transaction) -> str:
    return str(await tx.session.scalar(text("SHOW lock_timeout")))


async def asked(plane: Plane) -> list[str]:
    """By a transaction that follows another, but for what is prepared."""
    async with plane.db.transaction() as tx:
        driver = await driver_of(tx)
    heard: list[str] = []
    with driver.query_logger(lambda query: heard.append(query.query)):
        async with plane.db.transaction() as tx:
            await tx.session.execute(text("SELECT 1"))
    return heard


async def test_a_connection_that_just_answered_is_not_asked_whether_it_lives(plane: Plane) -> None:
    assert await asked(plane) == ["BEGIN ISOLATION LEVEL READ COMMITTED;", "COMMIT;"]


async def test_a_connection_that_has_long_been_silent_is_asked(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "TRUSTED_S", 0)
    assert (await asked(plane))[0] == "SELECT"


async def test_a_connection_that_was_cut_off_just_now_is_replaced_without_a_word(plane: Plane) -> None:
    async with plane.db.transaction() as tx, plane.db.transaction() as other:
        before, killer = await pid_of(tx), await pid_of(other)
    assert before != killer
    async with plane.db.transaction() as tx:
        at_hand = await pid_of(tx)
        async with plane.db.transaction() as other:
            victim = before if at_hand == killer else killer
            await tx.session.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": victim})
    await asyncio.sleep(0)
    async with plane.db.transaction() as tx, plane.db.transaction() as other:
        assert victim not in {await pid_of(tx), await pid_of(other)}


async def test_the_connection_used_last_is_used_next(plane: Plane) -> None:
    async with plane.db.transaction() as first:
        warm = await pid_of(first)
        async with plane.db.transaction() as second:
            assert await pid_of(second) != warm
    for _ in range(3):
        async with plane.db.transaction() as tx:
            assert await pid_of(tx) == warm


@pytest.mark.parametrize("begun", [False, True], ids=["with BEGIN", "after BEGIN"])
async def test_a_local_setting_holds_for_one_transaction(plane: Plane, begun: bool) -> None:
    async with plane.db.transaction() as tx:
        if begun:
            await pid_of(tx)
        await direct.set_local(tx.session, "lock_timeout = '7s'")
        assert await lock_timeout_of(tx) == "7s"
        before = await pid_of(tx)
    async with plane.db.transaction() as tx:
        assert await pid_of(tx) == before
        assert await lock_timeout_of(tx) == "5s"
