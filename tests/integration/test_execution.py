"""Carrying a run from queued to completed, whatever happens to its workers."""

import asyncio
import uuid
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import select, text

from opsplane.audit.models import AuditEvent
from opsplane.auth.actors import Actor
from opsplane.errors import ServiceUnavailable
from opsplane.findings.models import Finding
from opsplane.outbox import OutboxEvent
from opsplane.queue import QUEUE
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane
from opsplane.runs import items, leases, processes, summary, sweeper
from opsplane.runs.drain import Drained
from opsplane.runs.models import OperationRun, OperationRunItem
from opsplane.tenants.models import Tenant
from tests import support
from tests.integration.test_processes import until

PLAIN = "test.effects.plain"
ONE_EACH = "test.effects.by_itself"  # each worker takes a tenant of its own
ROWS = 40  # of each tenant, as in tests/runbooks/effects.py


async def effects(plane: Plane) -> tuple[int, int]:
    """Rows of `effects`, and how many of them are distinct."""
    async with plane.db.reading() as session:
        row = (await session.execute(text("SELECT count(*), count(DISTINCT (tenant_id, n)) FROM effects"))).one()
    return row[0], row[1]


async def test_a_run_does_every_tenant_exactly_once(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    run = (await support.start(plane, operator, PLAIN)).run
    await asyncio.gather(*(support.drain(plane, run.id) for _ in range(3)))
    done = await support.show(plane, run.id)
    assert (done.status, done.outcome) == ("completed", "succeeded")
    assert await effects(plane) == (3 * ROWS, 3 * ROWS)
    assert done.summary_counts == {
        "tenants": 3, "total": 3, "processed": 3, "succeeded": 3, "failed": 0, "skipped": 0,
        "updated": 3 * ROWS, "errors": 0,
    }  # fmt: skip
    assert done.context.updated_count == 3 * ROWS
    assert done.context.duration_ms is not None


async def test_a_failing_tenant_is_listed_and_the_others_are_done(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run = (await support.start(plane, operator, "test.effects.fails")).run
    await support.drain(plane, run.id)
    done = await support.show(plane, run.id)
    assert done.outcome == "partially_succeeded"
    [failure] = done.failures
    assert (failure.tenant_external_id, failure.code) == ("globex", "runbook_error")
    assert failure.message == "ValueError: globex is broken"
    assert await effects(plane) == (2 * ROWS + 20, 2 * ROWS + 20)
    assert done.summary_counts["updated"] == 2 * ROWS + 20


async def test_an_authors_own_connection_error_fails_its_tenant_and_is_not_taken_for_the_database(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run = (await support.start(plane, operator, "test.effects.unreachable")).run
    assert await support.drain(plane, run.id) is Drained.EMPTY
    [failure] = (await support.show(plane, run.id)).failures
    assert failure.message == "ConnectionRefusedError: the billing service is away"


@pytest.mark.parametrize("unkeepable", ["a\0b", "a\ud800b"], ids=["NUL", "half a surrogate pair"])
async def test_a_failure_whose_message_postgresql_cannot_keep_ends_its_tenant_all_the_same(
    plane: Plane, operator: Actor, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch, unkeepable: str
) -> None:
    async def act(*_: object) -> None:
        raise ValueError(unkeepable)

    monkeypatch.setattr(registry.find(PLAIN), "act", act)
    run = (await support.start(plane, operator, PLAIN)).run
    assert await support.drain(plane, run.id) is Drained.EMPTY
    done = await support.show(plane, run.id)
    assert (done.outcome, len(done.failures)) == ("failed", 3)


async def test_every_run_leaves_one_event_that_says_how_it_ended(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    good = (await support.start(plane, operator, PLAIN)).run
    await support.drain(plane, good.id)
    failed = (await support.start(plane, operator, "test.effects.fails")).run
    await support.drain(plane, failed.id)
    async with plane.db.reading() as session:
        events = await session.scalars(select(OutboxEvent).order_by(OutboxEvent.id))
        told = [(event.kind, event.severity, event.payload["run_id"]) for event in events]
    assert told == [
        ("operations.run.succeeded", "info", str(good.id)),
        ("operations.run.failed", "warning", str(failed.id)),
    ]


async def test_start_and_end_of_a_run_are_audited(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    for runbook in (PLAIN, "test.effects.fails"):
        await support.drain(plane, (await support.start(plane, operator, runbook)).run.id)
    async with plane.db.reading() as session:
        actions = [
            row.action.rsplit(".", 1)[1] for row in await session.scalars(select(AuditEvent).order_by(AuditEvent.id))
        ]
    assert actions == ["preflight", "started", "completed", "preflight", "started", "failed"]


async def test_a_tenant_that_asks_to_be_retried_waits_and_is_retried(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run = (await support.start(plane, operator, "test.effects.transient")).run
    for attempt in range(1, leases.MAX_ATTEMPTS):
        assert await support.drain(plane, run.id) is Drained.EMPTY
        async with plane.db.transaction() as tx:
            waiting = (
                await tx.session.scalars(
                    select(OperationRunItem).where(
                        OperationRunItem.state == "pending", OperationRunItem.not_before.is_not(None)
                    )
                )
            ).one()
            assert waiting.attempts == attempt
            waiting.not_before = None
    await support.drain(plane, run.id)
    done = await support.show(plane, run.id)
    assert (done.outcome, done.failures[0].code) == ("partially_succeeded", "gave_up")


async def claim(plane: Plane, run_id: uuid.UUID, lease_s: float = 20) -> leases.Lease:
    async with plane.db.transaction() as tx:
        return await support.claimed(tx.session, run_id, lease_s=lease_s)


async def test_no_two_workers_hold_the_same_tenant(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    run_id = await support.begun(plane, operator)
    held = [await claim(plane, run_id) for _ in tenants]
    assert len({lease.item_key for lease in held}) == 3
    async with plane.db.transaction() as tx:
        assert await leases.claim(tx.session, run_id, uuid.uuid4(), lease_s=20) is None


async def test_two_claims_at_once_take_two_tenants_and_do_not_wait_for_each_other(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    async with plane.db.transaction() as one, plane.db.transaction() as two, asyncio.timeout(2):
        first = await leases.claim(one.session, run_id, uuid.uuid4(), lease_s=20)
        second = await leases.claim(two.session, run_id, uuid.uuid4(), lease_s=20)
    assert first is not None
    assert second is not None
    assert first.item_key != second.item_key


async def test_a_worker_that_lost_its_lease_cannot_commit(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    run_id = await support.begun(plane, operator)
    zombie = await claim(plane, run_id, lease_s=0)
    await sweeper.sweep(plane.db, plane.queue, plane.settings)
    await claim(plane, run_id)
    with pytest.raises(leases.LeaseLost):
        async with plane.db.transaction() as tx:
            await tx.session.execute(text("INSERT INTO effects SELECT :t, 1"), {"t": zombie.tenant_id})
            await leases.fence(tx.session, zombie)
    assert await effects(plane) == (0, 0)


async def test_a_worker_that_lost_the_database_gives_back_what_it_is_not_at_work_on(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator, "test.effects.slow")
    worker = support.drainer(plane)

    async def written() -> bool:
        return await effects(plane) > (0, 0)

    async def busy() -> bool:
        return bool(worker.at_work)

    cut_off = asyncio.create_task(worker.drain(run_id))
    await until(written)
    await asyncio.sleep(0.1)  # into the next chunk, which dwells in its transaction
    async with plane.db.transaction() as tx:
        never_heard_of = await leases.claim(tx.session, run_id, worker.worker, lease_s=20)
        await tx.session.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()"
            )
        )
    with pytest.raises(ServiceUnavailable):
        await cut_off
    assert worker.left_behind.is_set()
    at_work = asyncio.create_task(worker.drain(run_id))
    await until(busy)
    assert never_heard_of is not None
    assert await worker.give_back_left_behind() == [run_id]
    async with plane.db.reading() as session:
        held = select(OperationRunItem.item_key).where(OperationRunItem.state == "running")
        assert list(await session.scalars(held)) == [str(tenants[2].id)]
    await at_work
    assert (await support.show(plane, run_id)).outcome == "succeeded"
    assert await effects(plane) == (3 * ROWS, 3 * ROWS)


async def test_a_stop_gives_the_tenant_back_with_its_cursor(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator, "test.effects.slow")
    worker = support.drainer(plane)
    task = asyncio.create_task(worker.drain(run_id))
    await asyncio.sleep(0.45)
    worker.stop.set()
    assert await task is Drained.STOPPED
    written, _ = await effects(plane)
    assert 0 < written < 3 * ROWS
    async with plane.db.reading() as session:
        states = set(await session.scalars(select(OperationRunItem.state)))
        attempts = set(await session.scalars(select(OperationRunItem.attempts)))
    assert states == {"pending"}
    assert attempts == {0}
    await support.drain(plane, run_id)
    assert await effects(plane) == (3 * ROWS, 3 * ROWS)


async def test_a_tenant_that_loses_its_worker_three_times_fails_and_the_others_are_done(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    for _ in range(items.MAX_LOST):
        lease = await claim(plane, run_id, lease_s=0)
        assert lease.tenant_id == tenants[0].id
        async with plane.db.transaction() as tx:
            await items.free_expired(tx.session)
    await support.drain(plane, run_id)
    done = await support.show(plane, run_id)
    assert done.outcome == "partially_succeeded"
    assert [(failure.tenant_external_id, failure.code) for failure in done.failures] == [("acme", "worker_lost")]


async def test_workers_that_end_together_complete_the_run(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    for _ in range(20):
        run = (await support.start(plane, operator, ONE_EACH, force=True)).run
        await asyncio.gather(*(support.drain(plane, run.id) for _ in tenants))
        assert (await support.show(plane, run.id)).status == "completed"


async def test_the_sweeper_begins_and_completes_what_others_left(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run = (await support.start(plane, operator, PLAIN)).run
    await sweeper.sweep(plane.db, plane.queue, plane.settings)
    assert (await support.show(plane, run.id)).status == "running"
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("UPDATE operation_run_items SET state = 'succeeded'"))
    await sweeper.sweep(plane.db, plane.queue, plane.settings)
    assert (await support.show(plane, run.id)).outcome == "succeeded"


async def test_a_queued_run_without_any_worker_fails_and_frees_its_scope(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run = (await support.start(plane, operator, PLAIN)).run
    impatient = replace(plane, settings=plane.settings.model_copy(update={"stale_queued_s": 0}))
    await sweeper.sweep(plane.db, plane.queue, impatient.settings)
    done = await support.show(plane, run.id)
    assert (done.outcome, done.failures[0].code) == ("failed", "no_worker")
    await support.start(plane, operator, PLAIN)


async def test_a_run_whose_runbook_no_living_worker_knows_fails(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run = (await support.start(plane, operator, PLAIN)).run
    async with plane.db.transaction() as tx:
        await processes.beat(tx.session, uuid.uuid4(), kind=processes.WORKER, slots=2)
        await tx.session.execute(text("UPDATE operation_runs SET runbook_version = 99"))
    impatient = plane.settings.model_copy(update={"stale_queued_s": 0})
    await sweeper.sweep(plane.db, plane.queue, impatient)
    assert (await support.show(plane, run.id)).failures[0].code == "runbook_gone"


async def test_a_run_given_up_half_way_says_which_tenants_were_done(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    lease = await claim(plane, run_id)
    async with plane.db.transaction() as tx:
        stored = await leases.store(tx.session, lease, cursor=None, updated=5, errors=0, passes=1, lease_s=20)
        await support.finish(tx.session, stored)
        await processes.beat(tx.session, uuid.uuid4(), kind=processes.WORKER, slots=2)
        await tx.session.execute(text("UPDATE operation_runs SET runbook_version = 99"))
        await tx.session.execute(
            text(
                "UPDATE operation_run_items SET started_at = started_at - interval '1h', progress_at = NULL, finished_at = NULL"
            )
        )
    await sweeper.sweep(plane.db, plane.queue, plane.settings.model_copy(update={"stale_queued_s": 0}))
    done = await support.show(plane, run_id)
    assert (done.outcome, done.summary_counts["updated"], len(done.failures)) == ("partially_succeeded", 5, 2)


async def test_a_busy_plane_is_not_rung_again(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    run_id = await support.begun(plane, operator)
    async with plane.db.transaction() as tx:
        await processes.beat(tx.session, uuid.uuid4(), kind=processes.WORKER, slots=1)
    await claim(plane, run_id)
    await plane.queue.redis.flushdb()
    await sweeper.sweep(plane.db, plane.queue, plane.settings)
    assert await plane.queue.redis.zcard(QUEUE) == 0
    async with plane.db.transaction() as tx:
        await processes.beat(tx.session, uuid.uuid4(), kind=processes.WORKER, slots=1)
    await sweeper.sweep(plane.db, plane.queue, plane.settings)
    assert await plane.queue.redis.zcard(QUEUE) == 1


async def test_a_run_whose_place_in_the_line_was_lost_gets_another_though_the_plane_is_busy(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    async with plane.db.transaction() as tx:
        await processes.beat(tx.session, uuid.uuid4(), kind=processes.WORKER, slots=1)
        await tx.session.execute(text("UPDATE operation_runs SET created_at = created_at - interval '61 s'"))
    await claim(plane, run_id)
    await plane.queue.redis.flushdb()
    for _ in range(3):
        await sweeper.sweep(plane.db, plane.queue, plane.settings)
    assert await plane.queue.redis.zcard(QUEUE) == 1


async def test_rings_are_heard_in_their_order_by_workers_whose_clocks_are_wrong(plane: Plane) -> None:
    first, second = uuid.uuid4(), uuid.uuid4()
    for run_id in (first, second, first):
        await plane.queue.wake(run_id, jobs=2)
    rung = await plane.queue.redis.zrange(QUEUE, 0, -1, withscores=True)
    assert [uuid.UUID(job.decode().split(":")[1]) for job, _ in rung] == [first] * 2 + [second] * 2 + [first] * 2
    assert max(due for _, due in rung) < datetime(2000, 1, 1, tzinfo=UTC).timestamp() * 1000


async def test_a_run_that_waits_behind_a_healthy_queue_is_left_alone(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run = (await support.start(plane, operator, PLAIN)).run
    async with plane.db.transaction() as tx:
        await processes.beat(tx.session, uuid.uuid4(), kind=processes.WORKER, slots=2)
    await sweeper.sweep(plane.db, plane.queue, plane.settings.model_copy(update={"stale_queued_s": 0}))
    assert (await support.show(plane, run.id)).status == "running"


async def test_a_run_that_waits_while_all_workers_are_being_replaced_is_left_alone_until_none_came_for_long(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run, worker = (await support.start(plane, operator, PLAIN)).run, uuid.uuid4()
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("UPDATE operation_runs SET created_at = created_at - interval '1h'"))
        await processes.beat(tx.session, worker, kind=processes.WORKER, slots=2)
        await processes.leave(tx.session, worker)
    async with plane.db.reading() as session:
        assert await processes.live_workers(session) == []
    await sweeper.sweep(plane.db, plane.queue, plane.settings)
    assert (await support.show(plane, run.id)).status == "running"
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("UPDATE processes SET seen_at = seen_at - interval '1h'"))
    await sweeper.sweep(plane.db, plane.queue, plane.settings)
    assert (await support.show(plane, run.id)).failures[0].code == "no_worker"


async def test_summary_counts_refuse_an_unknown_key() -> None:
    with pytest.raises(ValueError, match="tenantz"):
        summary.checked({"tenantz": 1})


async def test_a_run_outlives_its_runbook(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    run = (await support.start(plane, operator, PLAIN)).run
    await support.drain(plane, run.id)
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("UPDATE operation_runs SET type = 'gone.for.good'"))
    assert (await support.show(plane, run.id)).type_label == "gone.for.good"


async def test_start_answers_while_redis_is_away(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    deaf = replace(
        plane, queue=type(plane.queue)(plane.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"}))
    )
    started = asyncio.get_running_loop().time()
    run = (await support.start(deaf, operator, PLAIN)).run
    assert asyncio.get_running_loop().time() - started < 1
    await deaf.queue.close()
    assert await support.count(plane, OperationRun, OperationRun.id == run.id, OperationRun.status == "queued") == 1


@pytest.mark.parametrize(("attempts", "rows"), [(0, 60), (1, 50), (3, 12)])
async def test_a_tenant_that_had_to_be_retried_gets_smaller_chunks(
    plane: Plane, operator: Actor, tenants: list[Tenant], attempts: int, rows: int
) -> None:
    await support.add_findings(plane, tenants[0], 60)
    run_id = await support.begun(plane, operator, support.BACKFILL)
    lease = replace(await claim(plane, run_id), attempts=attempts)
    await support.drainer(plane).carrier(run_id, registry.find(support.BACKFILL)).advance(lease)
    assert await support.count(plane, Finding, Finding.due_at.is_not(None)) == rows
