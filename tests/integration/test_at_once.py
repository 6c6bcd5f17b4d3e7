"""A repair's chunk is one statement: it changes and counts for whoever holds the tenants, and for nobody else."""

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import ColumnElement, func, literal, select, text, update
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.types import TypeEngine

from opsplane.auth.actors import Actor
from opsplane.config import Pooler
from opsplane.db import Database
from opsplane.findings.models import Finding
from opsplane.lookups import as_stored
from opsplane.runbooks import registry
from opsplane.runbooks.base import RepairRunbook
from opsplane.runbooks.service import Plane
from opsplane.runs import at_once, leases
from opsplane.runs.at_once import AtOnce
from opsplane.runs.bundles import Culprit, Unclear
from opsplane.runs.carried import Carried
from opsplane.runs.chunks import Pace
from opsplane.runs.leases import Lease, RunNotRunning
from opsplane.runs.models import OperationRun, OperationRunItem
from opsplane.runs.states import ItemState
from opsplane.tenants.models import Tenant
from tests import support
from tests.unit.test_cursors import KEYS, runbook_of

BY_TITLE = "test.repairs.by_title"


@pytest.fixture
async def run_id(plane: Plane, operator: Actor, tenants: list[Tenant]) -> uuid.UUID:
    """A run under way over three tenants, each with three wrong rows."""
    for tenant in tenants:
        await support.add_findings(plane, tenant, 3, title="7", sla_days=None)
    return await support.begun(plane, operator, BY_TITLE)


async def claimed(plane: Plane, run_id: uuid.UUID) -> list[Lease]:
    async with plane.db.bare(each_alone=True) as bare:
        return await leases.claim_some(bare, run_id, uuid.uuid4(), 10, lease_s=20)


async def carry(plane: Plane, held: list[Lease], rows: int = 100, *, together: bool = True) -> Carried:
    found = registry.find(BY_TITLE)
    assert at_once.fits(found)
    pace = Pace(plane.settings, bundled=True)
    pace.size.rows, pace.together = rows, together
    return await AtOnce(db=plane.db, runbook=found, pace=pace, lease_s=20).together(held)


async def repaired(plane: Plane) -> int:
    return await support.count(plane, Finding, Finding.sla_days == 7)


async def item(plane: Plane, lease: Lease) -> OperationRunItem:
    async with plane.db.reading() as session:
        return (await session.scalars(select(OperationRunItem).where(item_is(lease)))).one()


def item_is(lease: Lease) -> ColumnElement[bool]:
    return OperationRunItem.item_key == lease.item_key


async def test_rows_and_counts_of_several_tenants_are_one_transaction(plane: Plane, run_id: uuid.UUID) -> None:
    held = await claimed(plane, run_id)
    carried = await carry(plane, held)
    assert [(lease.key, lease.updated, lease.passes) for lease in carried.whole] == [(x.key, 3, 1) for x in held]
    assert (carried.unfinished, carried.waiting, carried.lost, carried.updated) == ([], [], [], 9)
    async with plane.db.reading() as session:
        both = "SELECT xmin::text FROM findings UNION SELECT xmin::text FROM operation_run_items"
        assert len((await session.execute(text(both))).all()) == 1


async def test_a_chunk_stores_how_far_it_is_and_the_next_one_goes_on_from_there(
    plane: Plane, run_id: uuid.UUID
) -> None:
    first, second, third = await claimed(plane, run_id)
    carried = await carry(plane, [first, second, third], rows=5)
    [begun] = carried.unfinished
    stored = await item(plane, second)
    assert [lease.key for lease in carried.whole] == [first.key]
    assert carried.waiting == [third]
    assert begun == replace(second, cursor=stored.cursor, updated=2, progress_at=stored.progress_at)
    assert (stored.updated_count, stored.state, stored.leased_by is None) == (2, ItemState.RUNNING, False)
    carried = await carry(plane, [begun, third], rows=5)
    assert [(lease.key, lease.updated) for lease in carried.whole] == [(second.key, 3)]
    assert carried.waiting == [third]
    assert (await item(plane, second)).updated_count == 3
    assert await repaired(plane) == 6


async def test_who_is_done_is_given_up_and_who_is_not_has_its_lease_renewed(plane: Plane, run_id: uuid.UUID) -> None:
    async with plane.db.bare() as bare:
        held = await leases.claim_some(bare, run_id, uuid.uuid4(), 10, lease_s=1)
    before = (await item(plane, held[1])).lease_until
    assert before is not None
    await carry(plane, held, rows=4)
    done, begun, waiting = [await item(plane, lease) for lease in held]
    assert (done.lease_until, done.leased_by, done.cursor, done.state) == (None, None, None, ItemState.SUCCEEDED)
    assert done.finished_at is not None
    assert begun.lease_until is not None
    assert (begun.lease_until - before).total_seconds() > 15
    assert (begun.finished_at, waiting.lease_until, waiting.progress_at) == (None, before, None)


async def test_a_tenant_without_wrong_rows_is_skipped(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    await support.add_findings(plane, tenants[0], 3, title="7", sla_days=None)
    await support.add_findings(plane, tenants[1], 3, title="7", sla_days=30)
    held = await claimed(plane, await support.begun(plane, operator, BY_TITLE))
    carried = await carry(plane, held)
    assert len(carried.whole) == 3
    states = {lease.tenant_id: (await item(plane, lease)).state for lease in held}
    assert [states[tenant.id] for tenant in tenants] == [ItemState.SUCCEEDED, ItemState.SKIPPED, ItemState.SKIPPED]


async def test_where_few_rows_are_wrong_a_chunk_looks_at_so_many_and_the_next_one_goes_on_behind_them(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    await support.add_findings(plane, tenants[0], 25, title="7", sla_days=30)
    await support.add_findings(plane, tenants[0], 1, title="7", sla_days=None)
    held = await claimed(plane, await support.begun(plane, operator, BY_TITLE))
    [current] = [lease for lease in held if lease.tenant_id == tenants[0].id]
    chunks: list[Carried] = []
    while not chunks or not chunks[-1].whole:
        chunks.append(await carry(plane, [current], rows=1))
        [current] = [*chunks[-1].unfinished, *chunks[-1].whole]
    assert [(chunk.updated, chunk.took) for chunk in chunks] == [(0, 1), (0, 1), (1, 1), (0, 0)]
    assert (current.updated, current.passes) == (1, 1)


@pytest.mark.parametrize("to", ["one that is repaired as well", "one that another worker has"])
async def test_a_row_that_is_given_to_another_tenant_meanwhile_is_counted_if_it_is_changed(
    plane: Plane, run_id: uuid.UUID, to: str
) -> None:
    first, second, third = await claimed(plane, run_id)
    target = second if to == "one that is repaired as well" else third
    row = select(Finding.id).where(Finding.tenant_id == first.tenant_id).limit(1)
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(OperationRunItem).where(item_is(third)).values(lease_token=99))
    async with plane.db.transaction() as other:
        await other.session.execute(
            update(Finding).where(Finding.id.in_(row)).values(tenant_id=target.tenant_id)
        )  # fmt: skip
        carrying = asyncio.create_task(carry(plane, [first, second, third]))
        await support.until_somebody_waits(plane)
    carried = await carrying
    assert ([lease.key for lease in carried.whole], carried.lost) == ([second.key], [third])
    assert [(lease.key, lease.updated, lease.passes) for lease in carried.unfinished] == [(first.key, 2, 1)]
    counted = [(await item(plane, lease)).updated_count for lease in (first, second, third)]
    assert await repaired(plane) == sum(counted)  # one more on servers that look at a row's new place as well
    assert counted[2] == 0


async def test_a_chunk_leaves_out_whom_another_worker_has(plane: Plane, run_id: uuid.UUID) -> None:
    mine, lost, also_mine = await claimed(plane, run_id)
    async with plane.db.transaction() as tx:
        await leases.release(tx.session, [lost])
        await leases.claim(tx.session, run_id, uuid.uuid4(), lease_s=20)
    carried = await carry(plane, [mine, lost, also_mine])
    assert carried.lost == [lost]
    assert [lease.key for lease in carried.whole] == [mine.key, also_mine.key]
    assert (await item(plane, lost)).updated_count == 0
    assert await repaired(plane) == 6


async def test_whom_another_worker_takes_while_the_chunk_waits_for_it_is_left_out(
    plane: Plane, run_id: uuid.UUID
) -> None:
    held = await claimed(plane, run_id)
    async with plane.db.transaction() as other:
        taken = update(OperationRunItem).where(item_is(held[0]))
        await other.session.execute(taken.values(lease_token=99))
        carrying = asyncio.create_task(carry(plane, held))
        await support.until_somebody_waits(plane)
    carried = await carrying
    assert carried.lost == [held[0]]
    assert await repaired(plane) == 6


@pytest.mark.parametrize("status", ["pausing", "cancelling"])
async def test_a_run_that_is_to_pause_has_nothing_changed(plane: Plane, run_id: uuid.UUID, status: str) -> None:
    held = await claimed(plane, run_id)
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(OperationRun).values(status=status))
    with pytest.raises(RunNotRunning):
        await carry(plane, held)
    assert await repaired(plane) == 0
    assert (await item(plane, held[0])).progress_at is None


async def test_a_tenant_that_has_ended_is_not_carried(plane: Plane, run_id: uuid.UUID) -> None:
    held = await claimed(plane, run_id)
    async with plane.db.transaction() as tx:
        await support.finish(tx.session, held[0])
        await tx.session.execute(update(OperationRunItem).values(progress_at=None))
    assert (await carry(plane, held)).lost == [held[0]]
    assert await repaired(plane) == 6


async def test_a_worker_whose_last_chunk_the_server_forgot_does_not_go_on_from_there(
    plane: Plane, run_id: uuid.UUID
) -> None:
    held = await claimed(plane, run_id)
    [begun] = (await carry(plane, held, rows=2)).unfinished
    async with plane.db.transaction() as tx:
        forgotten = {"progress_at": None, "cursor": None, "updated_count": 0}
        await tx.session.execute(update(OperationRunItem).values(forgotten))
    assert (await carry(plane, [begun])).lost == [begun]
    assert await repaired(plane) == 2


async def test_progress_forgives_what_went_wrong_before(plane: Plane, run_id: uuid.UUID) -> None:
    async with plane.db.transaction() as tx:
        trouble = {"attempts": 2, "lost_count": 1, "trouble_code": "try_again", "trouble_message": "not yet"}
        await tx.session.execute(update(OperationRunItem).values(trouble))
        lease = await support.claimed(tx.session, run_id)
    carried = await carry(plane, [lease], rows=2)
    stored = await item(plane, lease)
    assert (carried.unfinished[0].attempts, carried.unfinished[0].losses) == (1, 0)
    assert (stored.attempts, stored.lost_count, stored.trouble_code, stored.trouble_message) == (1, 0, None, None)


async def test_a_tenant_that_was_unsure_once_is_gone_over_again(plane: Plane, run_id: uuid.UUID) -> None:
    """Rows behind which nobody will look again make the whole pass unsure, however well the later ones go."""
    held = await claimed(plane, run_id)
    await retitle(plane, held[0], "0", rows=1)
    current, cursors = held[0], []
    while current.passes == 0:
        [current] = (await carry(plane, [current], rows=1)).unfinished
        cursors.append(current.cursor and "unsure" in current.cursor)
    assert cursors == [True, True, True, None]
    await retitle(plane, held[0], "7")
    [whole] = (await carry(plane, [current])).whole
    assert (whole.updated, whole.passes) == (4, 2)


async def retitle(plane: Plane, lease: Lease, title: str, rows: int = 100) -> None:
    first = select(Finding.id).where(Finding.tenant_id == lease.tenant_id).order_by(Finding.id).limit(rows)
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(Finding).where(Finding.id.in_(first)).values(title=title))


async def test_a_tenant_of_which_only_an_earlier_chunk_repaired_rows_has_succeeded(
    plane: Plane, run_id: uuid.UUID
) -> None:
    [first, *_] = await claimed(plane, run_id)
    [current] = (await carry(plane, [first], rows=3)).unfinished
    [whole] = (await carry(plane, [current], rows=3)).whole
    assert whole.updated == 3
    assert (await item(plane, first)).state == ItemState.SUCCEEDED


async def test_two_chunks_of_a_run_do_not_wait_for_each_other(plane: Plane, run_id: uuid.UUID) -> None:
    first, second, third = await claimed(plane, run_id)
    async with plane.db.transaction() as tx:
        await leases.fence_all(tx.session, [first])
        async with asyncio.timeout(3):
            carried = await carry(plane, [second, third])
    assert len(carried.whole) == 2


async def test_a_chunk_is_one_round_trip(plane: Plane, run_id: uuid.UUID) -> None:
    first, *others = await claimed(plane, run_id)
    sent: list[str] = []
    await carry(plane, [first])  # by which the driver has learned the types of its parameters
    async with plane.db.bare() as bare:
        driver = bare._driver
    with driver.query_logger(lambda query: sent.append(query.query[:20])):
        await carry(plane, others)
        await asyncio.sleep(0)
    assert sent == ["WITH opsplane_fenced"]


async def test_where_a_common_statement_has_failed_the_first_one_is_carried_and_blamed(
    plane: Plane, run_id: uuid.UUID
) -> None:
    held = await claimed(plane, run_id)
    await retitle(plane, held[0], "x")
    with pytest.raises(Unclear):
        await carry(plane, held)
    with pytest.raises(Culprit) as broken:
        await carry(plane, held, together=False)
    assert broken.value.lease == held[0]
    assert await repaired(plane) == 0


async def test_a_tenant_that_is_lost_is_told_to_whoever_carries_it_alone(plane: Plane, run_id: uuid.UUID) -> None:
    [first, *_] = await claimed(plane, run_id)
    with pytest.raises(leases.LeaseLost):
        await support.drainer(plane).carrier(run_id, registry.find(BY_TITLE)).advance(replace(first, token=99))


async def test_a_tenant_in_doubt_that_is_lost_takes_no_other_along(plane: Plane, run_id: uuid.UUID) -> None:
    first, second, _ = await claimed(plane, run_id)
    lost = replace(first, token=99, passes=1)
    carried = await carry(plane, [lost, second])
    assert (carried.lost, carried.waiting) == ([lost], [second])


async def test_a_tenant_gone_over_often_does_not_fail_in_a_run_that_is_to_pause(
    plane: Plane, run_id: uuid.UUID
) -> None:
    [first, *_] = await claimed(plane, run_id)
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(OperationRun).values(status="pausing"))
    with pytest.raises(RunNotRunning):
        await carry(plane, [replace(first, passes=3)])


@pytest.mark.parametrize("passes", [1, 3])
async def test_a_tenant_gone_over_often_is_looked_at_before_it_is_said_not_to_converge(
    plane: Plane, run_id: uuid.UUID, passes: int
) -> None:
    held = await claimed(plane, run_id)
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(Finding).values(sla_days=7))
    often = replace(held[0], passes=passes)
    assert [lease.key for lease in (await carry(plane, [often, *held[1:]])).whole] == [held[0].key]


class LooksAtItsCommit(RepairRunbook):
    """The rows say how their transaction will be committed."""

    key, title, capability, confirmation_phrase = "test.at_once.commit", "Commit", "c", "COMMIT"
    table = Finding

    def wrong(self) -> ColumnElement[bool]:
        return Finding.sla_days.is_(None)

    def right(self) -> Mapping[InstrumentedAttribute[Any], Any]:
        return {Finding.sla_days: 7, Finding.title: func.current_setting("synchronous_commit")}


@pytest.mark.parametrize("pooler", Pooler)
async def test_it_does_not_wait_for_the_disk_and_what_comes_after_it_does(
    plane: Plane, run_id: uuid.UUID, pooler: Pooler
) -> None:
    held = await claimed(plane, run_id)
    async with support.durable(plane):
        own = Database(plane.settings.model_copy(update={"database_pooler": pooler, "pool_size": 1}))
        at_work = AtOnce(db=own, runbook=LooksAtItsCommit(), pace=Pace(plane.settings, bundled=True), lease_s=20)
        await at_work.together(held)
        async with own.transaction() as tx:
            assert await tx.session.scalar(text("SELECT current_setting('synchronous_commit')")) == "on"
            titles = (await tx.session.scalars(select(Finding.title).distinct())).all()
        await own.close()
    assert titles == ["off"]


@pytest.mark.parametrize(("type_", "stored"), KEYS, ids=lambda given: type(given).__name__)
async def test_a_key_comes_back_from_a_cursor_that_postgresql_wrote(
    plane: Plane, type_: TypeEngine[Any], stored: object
) -> None:
    keys = runbook_of(type_).statements
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("SET LOCAL datestyle = 'German'"))
        key = literal(stored, as_stored(type_))
        cursor: Any = await tx.session.scalar(select(func.jsonb_build_object("after", keys.encoded(key))))
    assert keys.decode(cursor["after"]) == stored
