"""Small tenants share a transaction, and none of them may notice what is wrong with another."""

import asyncio
import uuid
from dataclasses import replace

import pytest
from sqlalchemy import select, text

from opsplane.auth.actors import Actor
from opsplane.db import Database
from opsplane.findings.models import Finding
from opsplane.queue import QUEUE
from opsplane.runbooks import registry
from opsplane.runbooks.base import RepairRunbook
from opsplane.runbooks.chunk import LOOK
from opsplane.runbooks.service import Plane
from opsplane.runs import items, leases, processes, sweeper
from opsplane.runs.leases import Lease
from opsplane.runs.models import OperationRunItem
from opsplane.tenants.models import Tenant
from tests import support
from tests.integration.test_execution import ROWS, effects

SMALL = "test.effects.small"


async def transactions(plane: Plane) -> int:
    async with plane.db.reading() as session:
        return int(await session.scalar(text("SELECT count(DISTINCT xmin::text) FROM effects")) or 0)


async def states(plane: Plane) -> list[tuple[str, int]]:
    async with plane.db.reading() as session:
        rows = await session.execute(
            select(OperationRunItem.state, OperationRunItem.updated_count).order_by(OperationRunItem.ordinal)
        )
        return [(row.state, row.updated_count) for row in rows]


async def claim_all(plane: Plane, run_id: uuid.UUID) -> list[Lease]:
    async with plane.db.transaction() as tx:
        return await leases.claim_some(tx.session, run_id, uuid.uuid4(), 10, lease_s=20)


async def carry(
    plane: Plane, runbook: str, held: list[Lease], *, rows: int = 100, together_s: float | None = None
) -> None:
    carrier = support.drainer(plane).carrier(held[0].run_id, registry.find(runbook))
    carrier.pace.size.rows = rows
    carrier.pace.together_s = carrier.pace.patience_s if together_s is None else together_s
    await carrier.carry(held)


@pytest.mark.parametrize(("runbook", "chunks"), [(SMALL, 1), ("test.effects.by_itself", 3)])
async def test_small_tenants_share_a_transaction_unless_their_runbook_forbids_it(
    plane: Plane, operator: Actor, tenants: list[Tenant], runbook: str, chunks: int
) -> None:
    run_id = await support.finished_run(plane, operator, runbook)
    assert (await support.show(plane, run_id)).outcome == "succeeded"
    assert await states(plane) == 3 * [("succeeded", ROWS)]
    assert await effects(plane) == (3 * ROWS, 3 * ROWS)
    assert await transactions(plane) == chunks


@pytest.mark.parametrize(
    ("runbook", "code"),
    [("test.effects.small_fails", "database_error"), ("test.effects.breaks_late", "database_error")],
)
async def test_a_tenant_that_breaks_its_bundle_fails_alone(
    plane: Plane, operator: Actor, tenants: list[Tenant], runbook: str, code: str
) -> None:
    run_id = await support.finished_run(plane, operator, runbook)
    done = await support.show(plane, run_id)
    assert [(failure.tenant_external_id, failure.code) for failure in done.failures] == [("globex", code)]
    assert await states(plane) == [("succeeded", ROWS), ("failed", 0), ("succeeded", ROWS)]
    assert await effects(plane) == (2 * ROWS, 2 * ROWS)


async def test_a_tenant_of_a_bundle_that_asks_for_another_try_gets_it_alone(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run = (await support.start(plane, operator, "test.effects.small_transient")).run
    await support.drain(plane, run.id)
    assert await states(plane) == [("succeeded", ROWS), ("pending", 0), ("succeeded", ROWS)]
    async with plane.db.reading() as session:
        waits = select(OperationRunItem.attempts).where(OperationRunItem.not_before.is_not(None))
        assert list(await session.scalars(waits)) == [1]


async def test_a_tenant_that_needs_a_little_more_than_a_chunk_gives_nobody_back(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator, "test.effects.large_globex")
    held = await claim_all(plane, run_id)
    await carry(plane, "test.effects.large_globex", held, rows=ROWS + 10)
    assert await states(plane) == 3 * [("succeeded", ROWS)]
    assert await effects(plane) == (3 * ROWS, 3 * ROWS)


async def test_a_tenant_that_takes_long_keeps_nobody_waiting(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator, "test.effects.large_globex")
    held = await claim_all(plane, run_id)
    await carry(plane, "test.effects.large_globex", held, rows=ROWS + 10, together_s=0)
    assert await states(plane) == [("succeeded", ROWS), ("succeeded", ROWS), ("pending", 0)]
    await support.drain(plane, run_id)
    assert await effects(plane) == (3 * ROWS, 3 * ROWS)


async def test_whoever_waited_beside_a_tenant_that_broke_is_given_back_before_it_is_tried_alone(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator, "test.effects.small_fails")
    await carry(plane, "test.effects.small_fails", await claim_all(plane, run_id))
    assert await states(plane) == [("pending", 0), ("failed", 0), ("pending", 0)]
    await support.drain(plane, run_id)
    assert await effects(plane) == (2 * ROWS, 2 * ROWS)


async def test_a_bundle_leaves_out_whom_another_worker_has(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator, SMALL)
    mine, lost, also_mine = await claim_all(plane, run_id)
    async with plane.db.transaction() as tx:
        await leases.release(tx.session, [lost])
        await leases.claim(tx.session, run_id, uuid.uuid4(), lease_s=20)
    await carry(plane, SMALL, [mine, lost, also_mine])
    assert await states(plane) == [("succeeded", ROWS), ("running", 0), ("succeeded", ROWS)]
    assert await effects(plane) == (2 * ROWS, 2 * ROWS)


async def test_a_run_that_is_to_pause_gets_its_bundle_back_untouched(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator, SMALL)
    held = await claim_all(plane, run_id)
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("UPDATE operation_runs SET status = 'pausing'"))
    await carry(plane, SMALL, held)
    assert await states(plane) == 3 * [("pending", 0)]
    assert await effects(plane) == (0, 0)


async def test_a_tenant_that_may_have_killed_its_worker_is_never_bundled(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator, SMALL)
    async with plane.db.transaction() as tx:
        suspect = await support.claimed(tx.session, run_id, lease_s=0)
    async with plane.db.transaction() as tx:
        await items.free_expired(tx.session)
    assert suspect.item_key not in {lease.item_key for lease in await claim_all(plane, run_id)}
    assert [lease.item_key for lease in await claim_all(plane, run_id)] == [suspect.item_key]


async def test_a_worker_that_holds_many_small_tenants_is_busy_once(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator, SMALL)
    async with plane.db.transaction() as tx:
        await leases.claim_some(tx.session, run_id, uuid.uuid4(), 2, lease_s=20)
        await processes.beat(tx.session, uuid.uuid4(), kind=processes.WORKER, slots=2)
    await plane.queue.redis.flushdb()
    await sweeper.sweep(plane.db, plane.queue, plane.settings)
    assert await plane.queue.redis.zcard(QUEUE) == 1


async def test_two_claims_of_many_share_the_tenants_in_order(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator, SMALL)
    async with plane.db.transaction() as one, plane.db.transaction() as two:
        first = await leases.claim_some(one.session, run_id, uuid.uuid4(), 2, lease_s=20)
        second = await leases.claim_some(two.session, run_id, uuid.uuid4(), 2, lease_s=20)
    assert [lease.ordinal for lease in first + second] == [1, 2, 3]


async def test_nothing_is_kept_of_a_bundle_that_holds_a_lost_tenant(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator, SMALL)
    held = await claim_all(plane, run_id)
    whole = [leases.Whole(lease, 1, 0) for lease in (*held[:2], replace(held[2], token=99))]
    with pytest.raises(leases.LeaseLost):
        async with plane.db.transaction() as tx:
            await leases.finish(tx.session, whole)
    assert await states(plane) == 3 * [("running", 0)]


async def repair(db: Database, tenant: Tenant, limit: int) -> list[tuple[int, bool]]:
    """Rows changed by each chunk, and whether it proved the tenant."""
    runbook, cursor = registry.find(support.BACKFILL), None
    chunks: list[tuple[int, bool]] = []
    assert isinstance(runbook, RepairRunbook)
    while not chunks or cursor:
        async with db.transaction() as tx:
            chunk = await runbook.apply(tx.session, tenant.id, cursor, limit)
        cursor = chunk.cursor
        chunks.append((chunk.updated, chunk.proven))
    return chunks


async def test_where_few_rows_are_wrong_a_chunk_looks_at_so_many_and_no_more(
    plane: Plane, tenants: list[Tenant]
) -> None:
    acme = tenants[0]
    await support.add_findings(plane, acme, 25)
    await repair(plane.db, acme, 100)
    await support.add_findings(plane, acme, 3)
    assert await repair(plane.db, acme, 1) == [(0, False), (0, False), (1, False), (1, False), (1, False), (0, True)]
    assert LOOK == 10
    assert await support.count(plane, Finding, Finding.due_at.is_(None)) == 0


async def test_a_row_that_somebody_changed_meanwhile_is_looked_at_again(plane: Plane, tenants: list[Tenant]) -> None:
    """The writer holds the row when the chunk finds it, and leaves it wrong, in another place."""
    acme = tenants[0]
    await support.add_findings(plane, acme, 3)
    runbook = registry.find(support.BACKFILL)
    async with plane.db.transaction() as writer:
        await writer.session.execute(
            text("UPDATE findings SET title = 'new' WHERE id = (SELECT min(id::text)::uuid FROM findings)")
        )
        async with plane.db.transaction() as chunk:
            applying = asyncio.create_task(runbook.apply(chunk.session, acme.id, None, 10))
            await asyncio.sleep(0.3)
            await writer.session.commit()
            done = await applying
    assert done.proven == (done.updated == 3)
    async with plane.db.reading() as session:
        assert await runbook.residue(session, acme.id) == (done.updated < 3)
