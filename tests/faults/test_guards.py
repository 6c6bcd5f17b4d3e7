"""Guards that no other test would miss, each at the moment it is for; `mutants` takes them away one by one."""

import asyncio
import uuid
from datetime import datetime
from typing import Any

import pytest
from pwdlib import PasswordHash
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.auth.actors import Actor
from opsplane.auth.passwords import Passwords
from opsplane.connections import driver_of
from opsplane.db import sqlstate
from opsplane.runbooks import locks
from opsplane.runbooks.scopes import Scope
from opsplane.runbooks.service import Plane
from opsplane.runs import items, leases, sweeper
from opsplane.runs.leases import Lease, LeaseLost
from opsplane.runs.models import OperationRun, OperationRunItem
from opsplane.tenants.models import Tenant
from tests import support, web

LOCK_NOT_AVAILABLE = "55P03"


class Forgotten(Exception):
    """The server crashed before the commit was on disk."""


@pytest.fixture
async def run_id(plane: Plane, operator: Actor, tenants: list[Tenant]) -> uuid.UUID:
    """A run whose tenants wait to be claimed."""
    return await support.begun(plane, operator)


async def stored(session: AsyncSession, lease: Lease) -> Lease:
    return await leases.store(session, lease, cursor=None, updated=1, errors=0, passes=1, lease_s=20)


async def test_an_item_that_has_ended_lets_nobody_through_the_fence(plane: Plane, run_id: uuid.UUID) -> None:
    async with plane.db.transaction() as tx:
        lease = await support.claimed(tx.session, run_id)
        await leases.fail(tx.session, lease, code="broken", message="It is broken.")
        with pytest.raises(LeaseLost):
            await leases.fence(tx.session, lease)


async def test_nobody_takes_a_tenant_in_the_middle_of_its_chunk(plane: Plane, run_id: uuid.UUID) -> None:
    async with plane.db.transaction() as tx:
        lease = await support.claimed(tx.session, run_id, lease_s=0)
    async with plane.db.transaction() as chunk:
        await leases.fence(chunk.session, lease)
        async with plane.db.transaction() as sweep:
            assert await items.free_expired(sweep.session) == []
    async with plane.db.transaction() as sweep:
        assert await items.free_expired(sweep.session) == [run_id]


async def test_a_worker_whose_last_commit_the_server_forgot_does_not_go_on_from_there(
    plane: Plane, run_id: uuid.UUID
) -> None:
    async with plane.db.transaction() as tx:
        claimed = await support.claimed(tx.session, run_id)
    with pytest.raises(Forgotten):
        async with plane.db.transaction() as chunk:
            held = await leases.store(
                chunk.session, claimed, cursor={"next": 10}, updated=10, errors=0, passes=0, lease_s=20
            )
            raise Forgotten
    with pytest.raises(LeaseLost):
        async with plane.db.transaction() as tx:
            await leases.fence(tx.session, held)
    async with plane.db.transaction() as tx:
        await leases.fence(tx.session, claimed)


@pytest.mark.parametrize("status", ["queued", "pausing", "paused", "cancelling"])
async def test_a_run_that_is_not_running_hands_out_no_tenant(plane: Plane, run_id: uuid.UUID, status: str) -> None:
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(OperationRun).values(status=status))
        assert await leases.claim(tx.session, run_id, uuid.uuid4(), lease_s=20) is None


async def attempts_and_losses(session: AsyncSession, lease: Lease) -> tuple[int, int]:
    found = text("SELECT attempts, lost_count FROM operation_run_items WHERE item_key = :key")
    attempts, losses = (await session.execute(found, {"key": lease.item_key})).one()
    return attempts, losses


async def test_progress_forgives_what_went_wrong_before(plane: Plane, run_id: uuid.UUID) -> None:
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(OperationRunItem).values(attempts=3, lost_count=2))
        after = await stored(tx.session, await support.claimed(tx.session, run_id))
        assert await attempts_and_losses(tx.session, after) == (after.attempts, after.losses) == (2, 0)
        await support.finish(tx.session, after)
        assert await attempts_and_losses(tx.session, after) == (1, 0)


async def test_the_only_chunk_of_a_tenant_forgives_what_went_wrong_before(plane: Plane, run_id: uuid.UUID) -> None:
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(OperationRunItem).values(attempts=2, lost_count=2))
        lease = await support.claimed(tx.session, run_id)
        await support.finish(tx.session, lease)
        assert await attempts_and_losses(tx.session, lease) == (1, 0)


async def test_no_clock_of_a_worker_says_how_long_a_lease_lasts(plane: Plane, run_id: uuid.UUID) -> None:
    sent: list[Any] = []

    async with plane.db.transaction() as tx:
        driver = driver_of((await tx.session.connection()).sync_connection)
        assert driver is not None
        with driver.query_logger(lambda query: sent.extend(query.args)):
            lease = await stored(tx.session, await support.claimed(tx.session, run_id))
            await leases.retry_later(tx.session, lease, "gave_up", "not yet")
            await items.free_expired(tx.session)
    assert [lease.item_key] in sent
    times = {time for value in sent for time in _list(value) if isinstance(time, datetime)}
    assert times == {lease.progress_at}  # as the server told it


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


async def test_a_start_waits_for_another_on_an_overlapping_scope_only(plane: Plane, tenants: list[Tenant]) -> None:
    every, acme, globex = [await Scope.resolve(plane.db, name) for name in (None, "acme", "globex")]
    for first, second, waits in [(every, acme, True), (acme, every, True), (acme, acme, True), (acme, globex, False)]:
        async with plane.db.transaction() as one, plane.db.transaction() as two:
            await locks.take(one.session, first, "group")
            assert await _waits(two.session, second) is waits, (first.label, second.label)


async def _waits(session: AsyncSession, scope: Scope) -> bool:
    await session.execute(text("SET LOCAL lock_timeout = '300ms'"))
    try:
        async with session.begin_nested():
            await locks.take(session, scope, "group")
    except DBAPIError as error:
        if sqlstate(error) != LOCK_NOT_AVAILABLE:
            raise
        return True
    return False


async def test_a_scope_lock_refuses_a_snapshot_older_than_itself(plane: Plane, tenants: list[Tenant]) -> None:
    scope = await Scope.resolve(plane.db, None)
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        with pytest.raises(RuntimeError, match="repeatable read"):
            await locks.take(tx.session, scope, "group")


async def test_two_sweepers_do_not_take_the_same_step_at_once(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = 0, 0

    async def step(*_given: object) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.05)
        inside -= 1

    monkeypatch.setattr(sweeper, "STEPS", (step,))
    await asyncio.gather(*(sweeper.sweep(plane.db, plane.queue, plane.settings) for _ in range(4)))
    assert most == 1


async def test_a_password_of_nobody_is_hashed_like_anybodys(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords, compared = Passwords(web.CHEAP), []

    def verify(_self: PasswordHash, _password: str, kept: str) -> tuple[bool, None]:
        compared.append(kept.rsplit("$", 2)[0])  # algorithm and parameters, without salt and hash
        return True, None

    monkeypatch.setattr(PasswordHash, "verify_and_update", verify)
    assert (await passwords.verify("anything", await passwords.hash("right"))).right
    assert not (await passwords.verify("anything", None)).right
    known, unknown = compared
    assert known == unknown
