"""The owner of every status and outcome: a run changes here, by the transition table, and nowhere else."""

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.audit import log as audit
from opsplane.auth.actors import Actor, ActorKind
from opsplane.direct import Begun
from opsplane.runs import items, metrics, summary, telling
from opsplane.runs.models import OperationRun, OperationRunItem
from opsplane.runs.states import UNDER_WAY, InvalidTransition, ItemState, Outcome, Status, outcome_of, sources

COMPLETED, FAILED = "platform.ops.runbooks.completed", "platform.ops.runbooks.failed"


async def begin(session: AsyncSession, run_id: uuid.UUID) -> bool:
    """Expand a queued run into items and set it running; False if another process does, or did."""
    run = await session.scalar(
        select(OperationRun)
        .where(OperationRun.id == run_id, OperationRun.status == Status.QUEUED)
        .with_for_update(skip_locked=True)
    )
    if run is None:
        return False
    await items.expand(session, run)
    await move(
        session, run, Status.RUNNING, started_at=func.clock_timestamp(), expanded_at=func.clock_timestamp(),
        summary_counts=await summary.count(session, run.id),
    )  # fmt: skip
    return True


async def settle(session: AsyncSession, run_id: uuid.UUID) -> bool:
    """Bring a run to where its items are: completed once all have ended, paused once none is leased; else False.

    It must be a transaction of its own: inside the last item's, two workers that finish
    together would each see the other's item still open, and nobody would complete the run.
    """
    run = await session.scalar(
        select(OperationRun)
        .where(OperationRun.id == run_id, OperationRun.status.in_(UNDER_WAY))
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    if run is None:
        return False
    if run.status == Status.CANCELLING:
        await items.cancel_pending(session, run_id)
    leased, pending = await items.any_open(session, run_id)
    if not leased and not pending:
        await _complete_by_items(session, run)
    elif run.status == Status.PAUSING and not leased:
        await move(session, run, Status.PAUSED, paused_at=func.clock_timestamp())
    else:
        return False
    return True


async def _complete_by_items(session: AsyncSession, run: OperationRun) -> None:
    counts = await summary.count(session, run.id)
    cancelled = await _cancelled(session, run.id) or run.expanded_at is None
    outcome = outcome_of(succeeded=counts["succeeded"], failed=counts["failed"], cancelled=cancelled)
    await _complete(session, run, outcome, counts)


async def fail_whole(session: AsyncSession, run: OperationRun, *, code: str, message: str) -> None:
    """Complete a run that nobody can carry on; its scope is free again."""
    run.failure_code, run.failure_message = code, message
    await session.flush()
    counts = await summary.count(session, run.id)
    outcome = outcome_of(succeeded=counts["succeeded"], failed=max(1, counts["failed"]), cancelled=False)
    await _complete(session, run, outcome, counts)


async def _complete(session: AsyncSession, run: OperationRun, outcome: Outcome, counts: dict[str, int]) -> None:
    await move(
        session, run, Status.COMPLETED, outcome=outcome, summary_counts=summary.checked(counts),
        completed_at=func.clock_timestamp(),
    )  # fmt: skip
    await session.refresh(run)
    run.context = run.context | {
        "updated_count": counts["updated"],
        "skipped_count": counts["skipped"],
        "error_count": counts["errors"],
        "duration_ms": _duration_ms(run),
    }
    await session.flush()
    metrics.completed(session, run.type, outcome)
    await _tell(session, run, failed=outcome in {Outcome.FAILED, Outcome.PARTIALLY_SUCCEEDED})


async def _tell(session: AsyncSession, run: OperationRun, *, failed: bool) -> None:
    details = {"type": run.type, "outcome": run.outcome, "summary_counts": run.summary_counts}
    await record(session, FAILED if failed else COMPLETED, run, by=initiator(run), details=details, or_go_on=True)
    await telling.ended(session, run)


async def record(
    session: Begun,
    action: str,
    run: OperationRun,
    *,
    by: Actor,
    details: Mapping[str, Any],
    or_go_on: bool = False,
) -> None:
    """Put something that happened to a run on record; see `audit.record`."""
    await audit.record(
        session,
        action,
        by=by,
        subject_type="operation_run",
        subject_id=run.id,
        workspace_id=run.workspace_id,
        tenant_id=run.tenant_id,
        source=run.source,
        reason_code=run.reason_code,
        reason_text=run.reason_text,
        details=details,
        or_go_on=or_go_on,
    )


def initiator(run: OperationRun) -> Actor:
    """The actor a run was started by, as it is on record."""
    return Actor(
        kind=ActorKind(run.initiator_kind),
        display=run.initiator_display,
        id=run.initiator_id,
        token_id=run.token_id,
        break_glass_id=run.break_glass_id,
    )


async def move(session: AsyncSession, run: OperationRun, wanted: Status, **values: Any) -> None:
    """Change a run's status, with whatever changes with it.

    Raises:
        InvalidTransition: 409.
    """
    moved = await session.scalar(
        update(OperationRun)
        .where(OperationRun.id == run.id, OperationRun.status.in_(sources(wanted)))
        .values(status=wanted, throttled_reason=None, throttled_at=None, **values)
        .returning(OperationRun.id)
    )
    if moved is None:
        raise InvalidTransition(Status(run.status), wanted)


async def _cancelled(session: AsyncSession, run_id: uuid.UUID) -> bool:
    cancelled = select(OperationRunItem.run_id).where(
        OperationRunItem.run_id == run_id, OperationRunItem.state == ItemState.CANCELLED
    )
    return bool(await session.scalar(select(cancelled.exists())))


def _duration_ms(run: OperationRun) -> int:
    assert run.completed_at is not None
    return round((run.completed_at - (run.started_at or run.created_at)).total_seconds() * 1000)
