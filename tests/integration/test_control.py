"""Pause, resume, cancel, retry what failed: asked is not done, and a paused run keeps its scope."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import select, text

from opsplane.audit.models import AuditEvent
from opsplane.auth.actors import Actor
from opsplane.db import Transaction
from opsplane.errors import MissingCapability, ServiceUnavailable
from opsplane.runbooks import control
from opsplane.runbooks.locks import ScopeLocked
from opsplane.runbooks.preflights import PreflightStale
from opsplane.runbooks.reasons import ReasonRequired
from opsplane.runbooks.service import NothingToDo, Plane, Source, Started
from opsplane.runs import item_views, leases, lifecycle, sweeper
from opsplane.runs.control import Ask
from opsplane.runs.models import OperationRun
from opsplane.runs.schemas import RunOut
from opsplane.runs.states import InvalidTransition
from opsplane.runs.views import RunNotFound
from opsplane.tenants.models import Tenant
from tests import support

PLAIN, SLOW, FAILS = "test.effects.plain", "test.effects.slow", "test.effects.fails"
ROWS = 40


async def ask(plane: Plane, operator: Actor, run_id: uuid.UUID, what: Ask) -> RunOut:
    return await control.ask(plane, run_id, what, by=operator)


async def retry(plane: Plane, operator: Actor, run_id: uuid.UUID, **values: object) -> Started:
    return await control.retry_failed(plane, run_id, by=operator, source=Source.CLI, **values)  # type: ignore[arg-type]


async def effects(plane: Plane) -> tuple[int, int]:
    async with plane.db.reading() as session:
        row = (await session.execute(text("SELECT count(*), count(DISTINCT (tenant_id, n)) FROM effects"))).one()
    return row[0], row[1]


async def test_a_run_at_work_is_pausing_until_its_chunk_has_ended(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator, SLOW)
    working = asyncio.create_task(support.drain(plane, run_id))
    await asyncio.sleep(0.45)
    asked = await ask(plane, operator, run_id, Ask.PAUSE)
    assert asked.status == "pausing"
    await working
    paused = await support.show(plane, run_id)
    assert (paused.status, paused.outcome, paused.asked and paused.asked.by) == ("paused", "pending", "tester")
    written, distinct = await effects(plane)
    assert 0 < written == distinct < 3 * ROWS
    await support.drain(plane, run_id)
    assert await effects(plane) == (written, distinct)


async def test_a_paused_run_keeps_its_scope_and_goes_on_where_it_was(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator, SLOW)
    working = asyncio.create_task(support.drain(plane, run_id))
    await asyncio.sleep(0.45)
    await ask(plane, operator, run_id, Ask.PAUSE)
    await working
    with pytest.raises(ScopeLocked):
        await support.start(plane, operator, SLOW, tenant="acme")
    assert (await ask(plane, operator, run_id, Ask.RESUME)).status == "running"
    await support.drain(plane, run_id)
    done = await support.show(plane, run_id)
    assert (done.outcome, done.context.updated_count) == ("succeeded", 3 * ROWS)
    assert await effects(plane) == (3 * ROWS, 3 * ROWS)


async def test_resuming_rings_for_the_run(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    run_id = await support.begun(plane, operator)
    await ask(plane, operator, run_id, Ask.PAUSE)
    await plane.queue.redis.flushdb()
    await ask(plane, operator, run_id, Ask.RESUME)
    assert await plane.queue.redis.zcard("opsplane:queue") > 0


async def test_a_run_nobody_works_on_is_paused_and_cancelled_at_once(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    assert (await ask(plane, operator, run_id, Ask.PAUSE)).status == "paused"
    cancelled = await ask(plane, operator, run_id, Ask.CANCEL)
    assert (cancelled.status, cancelled.outcome) == ("completed", "cancelled")
    await support.start(plane, operator, PLAIN)


async def test_a_queued_run_can_be_cancelled_before_any_worker_came(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run = (await support.start(plane, operator, PLAIN)).run
    cancelled = await ask(plane, operator, run.id, Ask.CANCEL)
    assert (cancelled.status, cancelled.outcome) == ("completed", "cancelled")
    await support.drain(plane, run.id)
    assert await effects(plane) == (0, 0)


async def test_a_cancelled_run_leaves_what_is_repaired_and_touches_nothing_more(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator, SLOW)
    working = asyncio.create_task(support.drain(plane, run_id))
    await asyncio.sleep(0.45)
    began = time.monotonic()
    assert (await ask(plane, operator, run_id, Ask.CANCEL)).status == "cancelling"
    await working
    assert time.monotonic() - began < 2
    done = await support.show(plane, run_id)
    assert (done.status, done.outcome) == ("completed", "cancelled")
    written, distinct = await effects(plane)
    assert 0 < written == distinct == done.context.updated_count < 3 * ROWS


async def test_a_cancelled_run_ends_though_its_worker_is_dead(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    async with plane.db.transaction() as tx:
        assert await leases.claim(tx.session, run_id, uuid.uuid4(), lease_s=60)
    assert (await ask(plane, operator, run_id, Ask.CANCEL)).status == "cancelling"
    await sweeper.sweep(plane.db, plane.queue, plane.settings)
    assert (await support.show(plane, run_id)).status == "cancelling"
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("UPDATE operation_run_items SET lease_until = now() WHERE state = 'running'"))
    await sweeper.sweep(plane.db, plane.queue, plane.settings)
    done = await support.show(plane, run_id)
    assert (done.status, done.outcome, done.failures) == ("completed", "cancelled", [])


async def test_a_pausing_run_is_paused_though_its_worker_is_dead(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    async with plane.db.transaction() as tx:
        assert await leases.claim(tx.session, run_id, uuid.uuid4(), lease_s=0)
    await ask(plane, operator, run_id, Ask.PAUSE)
    await sweeper.sweep(plane.db, plane.queue, plane.settings)
    assert (await support.show(plane, run_id)).status == "paused"


async def test_a_pausing_run_whose_last_tenant_ends_is_completed(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    async with plane.db.transaction() as tx:
        held = [await leases.claim(tx.session, run_id, uuid.uuid4(), lease_s=20) for _ in tenants]
    await ask(plane, operator, run_id, Ask.PAUSE)
    async with plane.db.transaction() as tx:
        for lease in held:
            assert lease is not None
            await support.finish(tx.session, lease)
    async with plane.db.transaction() as tx:
        assert await lifecycle.settle(tx.session, run_id)
    assert (await support.show(plane, run_id)).outcome == "succeeded"


async def test_asking_twice_changes_nothing(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    run_id = await support.begun(plane, operator)
    for what in (Ask.RESUME, Ask.PAUSE, Ask.PAUSE, Ask.RESUME, Ask.RESUME, Ask.CANCEL, Ask.CANCEL):
        await ask(plane, operator, run_id, what)
    async with plane.db.reading() as session:
        wanted = select(AuditEvent.action).where(AuditEvent.subject_id == str(run_id)).order_by(AuditEvent.id)
        actions = [action.rsplit(".", 1)[1] for action in await session.scalars(wanted)]
    assert actions == ["started", "pause_requested", "resumed", "cancel_requested", "completed"]


@pytest.mark.parametrize("what", list(Ask))
async def test_a_completed_run_cannot_be_asked_anything(
    plane: Plane, operator: Actor, tenants: list[Tenant], what: Ask
) -> None:
    run_id = await support.finished_run(plane, operator, PLAIN)
    with pytest.raises(InvalidTransition, match="A run that is completed cannot be"):
        await ask(plane, operator, run_id, what)


@pytest.mark.parametrize("what", [Ask.PAUSE, Ask.RESUME])
async def test_a_queued_run_can_only_be_cancelled(
    plane: Plane, operator: Actor, tenants: list[Tenant], what: Ask
) -> None:
    run = (await support.start(plane, operator, PLAIN)).run
    with pytest.raises(InvalidTransition):
        await ask(plane, operator, run.id, what)
    assert run.can.model_dump() == {"pause": False, "resume": False, "cancel": True, "retry_failed": False}


async def test_asking_while_a_process_that_stands_still_holds_the_run_is_answered_with_try_again(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    async with plane.db.transaction() as frozen:
        await frozen.session.execute(select(OperationRun.id).with_for_update())
        with pytest.raises(ServiceUnavailable, match="ask again"):
            await ask(plane, operator, run_id, Ask.CANCEL)
    assert (await ask(plane, operator, run_id, Ask.CANCEL)).outcome == "cancelled"


async def test_nobody_without_the_right_to_run_may_ask(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    run_id = await support.begun(plane, operator)
    viewer = Actor(kind=operator.kind, display="viewer", capabilities=frozenset({"platform.ops.view"}))
    for what in Ask:
        with pytest.raises(MissingCapability):
            await ask(plane, viewer, run_id, what)
    with pytest.raises(RunNotFound):
        await ask(plane, operator, uuid.uuid4(), Ask.PAUSE)


async def test_a_pause_does_not_slow_the_rate_nor_make_a_run_stalled(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("UPDATE operation_runs SET started_at = started_at - interval '1 hour 2 s'"))
        await tx.session.execute(text("UPDATE operation_run_items SET updated_count = 40"))
    await ask(plane, operator, run_id, Ask.PAUSE)
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("UPDATE operation_runs SET paused_at = paused_at - interval '1 hour'"))
    assert ((await support.show(plane, run_id)).progress.rows_per_s or 0) > 20
    await ask(plane, operator, run_id, Ask.RESUME)
    assert ((await support.show(plane, run_id)).progress.rows_per_s or 0) > 20
    await sweeper.sweep(plane.db, plane.queue, plane.settings)
    assert not (await support.show(plane, run_id)).stalled


async def test_a_run_resumed_after_a_long_pause_is_not_given_up_for_its_age(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    await ask(plane, operator, run_id, Ask.PAUSE)
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("UPDATE operation_runs SET created_at = created_at - interval '1h'"))
    await ask(plane, operator, run_id, Ask.RESUME)
    await sweeper.sweep(plane.db, plane.queue, plane.settings)
    assert (await support.show(plane, run_id)).status == "running"


async def test_retry_failed_repairs_only_the_tenants_that_failed(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    old = await support.finished_run(plane, operator, FAILS)
    retried = await retry(plane, operator, old)
    assert (retried.run.retry_of_run_id, retried.run.reason and retried.run.reason.text) == (old, "a test")
    assert retried.run.context.preflight.affected_count == ROWS
    await support.drain(plane, retried.run.id)
    async with plane.db.reading() as session:
        items = await item_views.page(session, retried.run.id, after=None, limit=10)
    assert [(item.tenant_external_id, item.failure_code) for item in items] == [("globex", "runbook_error")]


async def test_a_retry_whose_commit_nobody_answered_is_found(
    plane: Plane, operator: Actor, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await support.finished_run(plane, operator, FAILS)
    transaction, lost = plane.db.transaction, asyncio.Event()

    @asynccontextmanager
    async def cut() -> AsyncIterator[Transaction]:
        async with transaction() as tx:
            yield tx
        if not lost.is_set() and await support.count(plane, OperationRun) == 2:
            lost.set()
            raise ServiceUnavailable("away", service="database")

    monkeypatch.setattr(plane.db, "transaction", cut)
    retried = await retry(plane, operator, old)
    assert lost.is_set()
    assert (retried.run.retry_of_run_id, await support.count(plane, OperationRun)) == (old, 2)


async def test_a_retried_run_says_so_and_offers_no_other_retry_once_that_has_succeeded(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    old = await support.finished_run(plane, operator, FAILS)
    again = (await retry(plane, operator, old)).run.id
    for outcome, offered in (("pending", False), ("failed", True)):
        shown = await support.show(plane, old)
        assert shown.retried_in is not None
        assert (shown.retried_in.run_id, shown.retried_in.outcome, shown.can.retry_failed) == (again, outcome, offered)
        await support.drain(plane, again)


async def test_a_run_knows_who_asked_what_of_it(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    run_id = await support.begun(plane, operator)
    for what in (Ask.PAUSE, Ask.RESUME, Ask.CANCEL):
        await ask(plane, operator, run_id, what)
    shown = await support.show(plane, run_id)
    assert [(asked.what, asked.by) for asked in shown.asks] == [
        ("pause", "tester"), ("resume", "tester"), ("cancel", "tester"),
    ]  # fmt: skip
    assert sorted(shown.asks, key=lambda asked: asked.at) == shown.asks
    assert shown.asked == shown.asks[-1]


async def test_a_retry_holds_the_scope_of_the_run_it_retries(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    old = await support.finished_run(plane, operator, FAILS)
    await retry(plane, operator, old)
    with pytest.raises(ScopeLocked):
        await retry(plane, operator, old)
    with pytest.raises(ScopeLocked):
        await support.start(plane, operator, FAILS, tenant="acme")


async def test_a_retry_repeated_with_its_key_is_one_run(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    old = await support.finished_run(plane, operator, FAILS)
    runs = [await retry(plane, operator, old, idempotency_key="k") for _ in range(2)]
    assert runs[0].run.id == runs[1].run.id
    assert [run.replayed for run in runs] == [False, True]


async def test_retry_failed_refuses_a_run_that_goes_on_or_has_no_failed_tenant(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    with pytest.raises(control.NothingFailed):
        await retry(plane, operator, run_id)
    await support.drain(plane, run_id)
    with pytest.raises(control.NothingFailed):
        await retry(plane, operator, run_id)


async def test_retry_failed_refuses_when_nothing_is_wrong_there_any_more(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    await support.add_findings(plane, tenants[0], 3)
    run_id = await support.begun(plane, operator, support.BACKFILL)
    async with plane.db.transaction() as tx:
        lease = await support.claimed(tx.session, run_id)
        await leases.fail(tx.session, lease, code="x", message="y")
    await support.drain(plane, run_id)
    assert await support.wrong_count(plane) == 3
    repaired = (await retry(plane, operator, run_id)).run
    await support.drain(plane, repaired.id)
    assert await support.wrong_count(plane) == 0
    with pytest.raises(NothingToDo):
        await retry(plane, operator, run_id)


async def test_a_retry_in_break_glass_needs_a_reason_of_its_own(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    old = await support.finished_run(plane, operator, FAILS)
    emergency = Actor(kind=operator.kind, display="tester", break_glass_id=uuid.uuid4())
    with pytest.raises(ReasonRequired):
        await retry(plane, emergency, old)
    assert (await retry(plane, emergency, old, reason=("INCIDENT", "fire"))).run.actor.break_glass


async def test_a_preflight_of_a_retry_starts_nothing_else(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    old = await support.finished_run(plane, operator, FAILS)
    run = (await retry(plane, operator, old)).run
    async with plane.db.transaction() as tx:
        seen = (await tx.session.get_one(OperationRun, run.id)).preflight_id
        await tx.session.execute(text("UPDATE preflights SET used_at = NULL"))
    await support.drain(plane, run.id)
    with pytest.raises(PreflightStale):
        await support.start(plane, operator, FAILS, preflight_id=seen)


async def test_a_tenant_that_waits_for_another_try_says_why(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run = (await support.start(plane, operator, "test.effects.transient")).run
    await support.drain(plane, run.id)
    async with plane.db.reading() as session:
        [waiting] = [item for item in await item_views.page(session, run.id, after=None, limit=9) if item.attempts]
    assert (waiting.failure_code, waiting.retry_at is not None) == ("try_again", True)
    assert "not yet" in (waiting.failure_message or "")


async def test_a_tenant_that_got_further_no_longer_says_what_once_held_it_up(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    async with plane.db.transaction() as tx:
        lease = await support.claimed(tx.session, run_id)
        await leases.retry_later(tx.session, lease, "try_again", "not yet")
        await tx.session.execute(text("UPDATE operation_run_items SET not_before = 'epoch' WHERE attempts > 0"))
        again = await support.claimed(tx.session, run_id)
        further = await leases.store(tx.session, again, cursor={"next": 1}, updated=1, errors=0, passes=0, lease_s=20)
        await leases.release(tx.session, [further])
        [item] = [each for each in await item_views.page(tx.session, run_id, after=None, limit=9) if each.updated_count]
    assert (item.state, item.failure_code, item.retry_at) == ("pending", None, None)
