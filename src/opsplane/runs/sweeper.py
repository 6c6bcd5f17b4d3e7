"""The sweeper: a loop in every worker and API process that repairs what a lost message or a dead process left.

Each step is a short transaction of its own under its own try-lock, so that processes never queue
behind each other and one frozen worker cannot stop the whole sweep.
"""

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import ColumnElement, delete, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.access import emergencies
from opsplane.alerts import forgetting, routing
from opsplane.audit import chain, replay
from opsplane.config import Settings
from opsplane.db import Database, Transaction, first_id_at
from opsplane.errors import ServiceUnavailable
from opsplane.queue import JOBS_PER_WAKE, Queue
from opsplane.runbooks.models import IdempotencyKey, Preflight
from opsplane.runs import announcing, items, lifecycle, metrics, processes, telling
from opsplane.runs.models import OperationRun, OperationRunItem, is_now
from opsplane.runs.states import ItemState, Status
from opsplane.runs.throttling import marks

log = structlog.get_logger()

STALLED_AFTER = timedelta(seconds=120)
WAKE_AGAIN_AFTER = timedelta(seconds=4)
KEEP_IN_LINE_AFTER = timedelta(seconds=60)
KEEP_IDEMPOTENCY_KEYS = timedelta(hours=72)
KEEP_PREFLIGHTS = timedelta(days=30)
BATCH = 100

run, item = OperationRun, OperationRunItem
Step = Callable[[Transaction, Settings, Queue], Awaitable[object]]


async def sweep_until(stop: asyncio.Event, db: Database, queue: Queue, settings: Settings) -> None:
    """Sweep every `sweep_s` seconds, ± 20 %, until `stop`; no failure ends the loop."""
    while not stop.is_set():
        await sweep(db, queue, settings)
        pause_s = settings.sweep_s * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, guards nothing # nosec B311
        try:
            await asyncio.wait_for(stop.wait(), pause_s)
        except TimeoutError:
            continue


async def sweep(db: Database, queue: Queue, settings: Settings) -> None:
    """Every step once; one that fails is logged and does not stop the others.

    The spool of audit events is this host's own, so no other process can sweep it.
    """
    for step in STEPS:
        try:
            async with db.transaction() as tx:
                if await _alone(tx.session, step.__name__):
                    with metrics.step_seconds.labels(step.__name__).time():
                        await step(tx, settings, queue)
        except ServiceUnavailable:
            return  # the transaction has logged it; everything waits for the database
        except Exception:
            metrics.step_failures.labels(step.__name__).inc()
            log.exception("sweep_step_failed", step=step.__name__)
    await replay.attempt(db, settings)
    metrics.swept.set_to_current_time()


async def expand_queued(tx: Transaction, _settings: Settings, queue: Queue) -> None:
    """Begin runs whose wake-up call was lost."""
    queued = await tx.session.scalars(select(run.id).where(run.status == Status.QUEUED).order_by(run.id).limit(BATCH))
    for run_id in queued.all():
        if await lifecycle.begin(tx.session, run_id):
            announcing.after_commit(tx.session, queue, run_id)
            announcing.wake_after_commit(tx.session, queue, run_id)


async def free_leases(tx: Transaction, _settings: Settings, queue: Queue) -> None:
    """Take tenants back from workers that fell silent."""
    for run_id in await items.free_expired(tx.session):
        announcing.after_commit(tx.session, queue, run_id)
        announcing.wake_after_commit(tx.session, queue, run_id, jobs=1)


async def wake_waiting(tx: Transaction, _settings: Settings, queue: Queue) -> None:
    """Ring again for runs that have work and were not rung for a while, as often as there are free slots.

    More would pile up in the queue in front of other runs, because every slice that ends rings for itself.
    Without a free slot a run gets one place in the line, and that seldom: its own may have been lost.
    The same goes for a run that is throttled: the slots of who waits with it look free.
    """
    free = await _free_slots(tx.session)
    due = or_(item.not_before.is_(None), item.not_before <= func.clock_timestamp())
    waiting = select(item.run_id).where(item.run_id == run.id, is_now(ItemState.PENDING), due)
    quiet = func.coalesce(run.woken_at, run.created_at) < func.clock_timestamp() - KEEP_IN_LINE_AFTER
    if free > 0:
        early = or_(run.woken_at.is_(None), run.woken_at < func.clock_timestamp() - WAKE_AGAIN_AFTER)
        quiet = quiet | (early & run.throttled_reason.is_(None))
    woken = await tx.session.scalars(
        update(run)
        .where(run.status == Status.RUNNING, quiet, waiting.exists())
        .values(woken_at=func.clock_timestamp())
        .returning(run)
    )
    for one in woken.all():
        jobs = 1 if one.throttled_reason else max(1, min(free, JOBS_PER_WAKE))
        announcing.wake_after_commit(tx.session, queue, one.id, jobs=jobs)


async def settle_all(tx: Transaction, _settings: Settings, queue: Queue) -> None:
    """Complete and pause runs whose last worker died between its last item and that, or that had none."""
    ended = (run.status == Status.RUNNING) & ~_is_open()
    asked = run.status.in_([Status.PAUSING, Status.CANCELLING]) & ~_has_items(ItemState.RUNNING)
    at_rest = await tx.session.scalars(
        select(run.id).where(ended | asked).with_for_update(key_share=True, skip_locked=True).limit(BATCH)
    )
    for run_id in at_rest.all():
        if await lifecycle.settle(tx.session, run_id):
            announcing.after_commit(tx.session, queue, run_id)


async def fail_unrunnable(tx: Transaction, settings: Settings, queue: Queue) -> None:
    """Fail runs that nobody can ever work on, so that their scope does not stay locked.

    That is a run that waited `stale_queued_s` in which no worker was alive, or none with the code of its
    runbook version. A run that waits behind a long healthy queue is neither, though all workers are just
    being replaced, nor is one whose items have all ended: that is only to be settled.
    """
    patience = timedelta(seconds=settings.stale_queued_s)
    workers = await processes.recent_workers(tx.session, patience)
    old = await tx.session.scalars(
        select(run)
        .where((run.status == Status.QUEUED) | ((run.status == Status.RUNNING) & _is_open()))
        .where(func.greatest(run.created_at, run.resumed_at) < func.clock_timestamp() - patience)
        .where(~_claimed_since(patience))
        .with_for_update(skip_locked=True)
        .limit(BATCH)
    )
    for stale in old.all():
        if not workers and not await _ever_claimed(tx.session, stale.id):
            message = (
                f"No worker was alive for {settings.stale_queued_s} s; start one (`opsplane worker`) and run again."
            )
            await _give_up(tx, queue, stale, "no_worker", message)
        elif workers and not processes.can_run(workers, stale.type, stale.runbook_version):
            message = (
                f"For {settings.stale_queued_s} s no worker had version {stale.runbook_version} of {stale.type}; "
                "run the current one."
            )
            await _give_up(tx, queue, stale, "runbook_gone", message)


async def flag_stalled(tx: Transaction, _settings: Settings, queue: Queue) -> None:
    """Mark running runs in which nothing has moved for two minutes, throttled ones aside; unmark those that move."""
    throttled = func.coalesce(run.throttled_until > func.clock_timestamp() - STALLED_AFTER, False)  # on purpose
    moved = _claimed_since(STALLED_AFTER) | throttled
    begun = func.greatest(run.started_at, run.resumed_at) < func.clock_timestamp() - STALLED_AFTER
    active = run.status == Status.RUNNING
    stalled = await tx.session.scalars(
        update(run)
        .where(active, begun, run.stalled_at.is_(None), ~moved)
        .values(stalled_at=func.clock_timestamp())
        .returning(run)
    )
    for one in stalled.all():
        log.warning("run_stalled", run_id=str(one.id))
        await telling.stalled(tx.session, one)
        announcing.after_commit(tx.session, queue, one.id)
    moving = await tx.session.scalars(
        update(run).where(active, run.stalled_at.is_not(None), moved).values(stalled_at=None).returning(run.id)
    )
    for run_id in moving.all():
        announcing.after_commit(tx.session, queue, run_id)


async def lift_throttles(tx: Transaction, _settings: Settings, queue: Queue) -> None:
    """No longer call runs throttled whose worker is gone: the next one says how it is."""
    for run_id in await marks.lift_stale(tx.session):
        announcing.after_commit(tx.session, queue, run_id)


async def end_emergencies(tx: Transaction, _settings: Settings, _queue: Queue) -> None:
    """Put the end of every emergency on record whose hour is over."""
    await emergencies.end_overdue(tx.session)


async def seal_audit(tx: Transaction, settings: Settings, _queue: Queue) -> None:
    """Give new audit events their place in the chain."""
    await chain.seal(tx, settings)


async def route_alerts(tx: Transaction, _settings: Settings, _queue: Queue) -> None:
    """Find out who must hear of what has happened."""
    await routing.route(tx.session)


async def forget_old(tx: Transaction, _settings: Settings, _queue: Queue) -> None:
    """Drop what nobody can use any more."""
    now = func.statement_timestamp()
    await tx.session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < now - KEEP_IDEMPOTENCY_KEYS))
    made_before = Preflight.id < first_id_at(datetime.now(UTC) - KEEP_PREFLIGHTS)  # all that can have expired by then
    await tx.session.execute(delete(Preflight).where(made_before, Preflight.expires_at < now - KEEP_PREFLIGHTS))
    await forgetting.forget_old(tx.session)
    await processes.forget_dead(tx.session)


STEPS: tuple[Step, ...] = (
    expand_queued,
    free_leases,
    wake_waiting,
    settle_all,
    fail_unrunnable,
    flag_stalled,
    lift_throttles,
    end_emergencies,
    seal_audit,
    route_alerts,
    forget_old,
)
for known in STEPS:
    metrics.step_failures.labels(known.__name__)


async def _alone(session: AsyncSession, step: str) -> bool:
    lock = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")
    return bool(await session.scalar(lock, {"name": f"opsplane:sweep:{step}"}))


async def _give_up(tx: Transaction, queue: Queue, stale: OperationRun, code: str, message: str) -> None:
    log.error("run_given_up", run_id=str(stale.id), code=code)
    await items.fail_open(tx.session, stale.id, code=code, message=message)
    await lifecycle.fail_whole(tx.session, stale, code=code, message=message)
    announcing.after_commit(tx.session, queue, stale.id)


def _is_open() -> ColumnElement[bool]:
    return or_(_has_items(ItemState.PENDING), _has_items(ItemState.RUNNING))  # each has an index of its own


def _has_items(state: ItemState) -> ColumnElement[bool]:
    return select(item.run_id).where(item.run_id == run.id, is_now(state)).exists()


def _claimed_since(ago: timedelta) -> ColumnElement[bool]:
    """Whether any item moved: one at work, one given back, or one that ended; each kind has an index of its own."""
    since = func.statement_timestamp() - ago  # an index is no use to what a clock may say of each row
    lately = func.greatest(item.started_at, item.progress_at) > since
    given_back = is_now(ItemState.PENDING) & item.started_at.is_not(None) & lately
    return or_(
        *(
            select(item.run_id).where(item.run_id == run.id, moved).exists()
            for moved in (is_now(ItemState.RUNNING) & lately, given_back, item.finished_at > since)
        )
    )


async def _ever_claimed(session: AsyncSession, run_id: uuid.UUID) -> bool:
    claimed = select(item.run_id).where(item.run_id == run_id, item.lease_token > 0)
    return bool(await session.scalar(select(claimed.exists())))


async def _free_slots(session: AsyncSession) -> int:
    workers = await processes.live_workers(session)
    at_work = select(item.leased_by, item.lease_until).where(is_now(ItemState.RUNNING)).distinct().subquery()
    busy = await session.scalar(select(func.count()).select_from(at_work))  # a drain may hold many small tenants
    return sum(worker.slots for worker in workers) - (busy or 0)
