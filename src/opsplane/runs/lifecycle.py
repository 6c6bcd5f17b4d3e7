"""The owner of every status and outcome: a run changes here, by the transition table, and nowhere else."""

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.alerts.models import OutboxEvent
from opsplane.audit import log as audit
from opsplane.auth.actors import Actor, ActorKind
from opsplane.db import new_id
from opsplane.runs import items, summary
from opsplane.runs.models import OperationRun, OperationRunItem
from opsplane.runs.states import OPEN_ITEM_STATES, InvalidTransition, ItemState, Outcome, Status, outcome_of, sources

COMPLETED, FAILED = "platform.ops.runbooks.completed", "platform.ops.runbooks.failed"
RUN_FAILED = "operations.run.failed"


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
    await _move(
        session, run, Status.RUNNING, started_at=func.clock_timestamp(), expanded_at=func.clock_timestamp(),
        summary_counts=await summary.count(session, run.id),
    )  # fmt: skip
    return True


async def finalize(session: AsyncSession, run_id: uuid.UUID) -> bool:
    """Complete a run whose items have all ended; False if it is not so far.

    It must be a transaction of its own: inside the last item's, two workers that finish
    together would each see the other's item still open, and nobody would complete the run.
    """
    run = await session.scalar(
        select(OperationRun)
        .where(OperationRun.id == run_id, OperationRun.status.in_(sources(Status.COMPLETED)))
        .where(OperationRun.expanded_at.is_not(None))
        .with_for_update()
    )
    if run is None or await _has_open_items(session, run_id):
        return False
    counts = await summary.count(session, run_id)
    cancelled = await _cancelled(session, run_id)
    outcome = outcome_of(succeeded=counts["succeeded"], failed=counts["failed"], cancelled=cancelled)
    await _complete(session, run, outcome, counts)
    return True


async def fail_whole(session: AsyncSession, run: OperationRun, *, code: str, message: str) -> None:
    """Complete a run that nobody can carry on; its scope is free again."""
    run.failure_code, run.failure_message = code, message
    await session.flush()
    counts = await summary.count(session, run.id)
    outcome = outcome_of(succeeded=counts["succeeded"], failed=max(1, counts["failed"]), cancelled=0)
    await _complete(session, run, outcome, counts)


async def _complete(session: AsyncSession, run: OperationRun, outcome: Outcome, counts: dict[str, int]) -> None:
    await _move(
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
    await _tell(session, run, failed=outcome in {Outcome.FAILED, Outcome.PARTIALLY_SUCCEEDED})


async def _tell(session: AsyncSession, run: OperationRun, *, failed: bool) -> None:
    details = {"type": run.type, "outcome": run.outcome, "summary_counts": run.summary_counts}
    await record(session, FAILED if failed else COMPLETED, run, by=initiator(run), details=details, or_go_on=True)
    if failed:
        payload = {"run_id": str(run.id), "type": run.type, "outcome": run.outcome, "scope_kind": run.scope_kind}
        await session.execute(
            insert(OutboxEvent)
            .values(id=new_id(), kind=RUN_FAILED, dedupe_key=f"{run.id}:{RUN_FAILED}", payload=payload)
            .on_conflict_do_nothing()
        )


async def record(
    session: AsyncSession,
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


async def _move(session: AsyncSession, run: OperationRun, wanted: Status, **values: Any) -> None:
    moved = await session.scalar(
        update(OperationRun)
        .where(OperationRun.id == run.id, OperationRun.status.in_(sources(wanted)))
        .values(status=wanted, **values)
        .returning(OperationRun.id)
    )
    if moved is None:
        raise InvalidTransition(Status(run.status), wanted)


async def _has_open_items(session: AsyncSession, run_id: uuid.UUID) -> bool:
    open_items = select(OperationRunItem.run_id).where(
        OperationRunItem.run_id == run_id, OperationRunItem.state.in_(OPEN_ITEM_STATES)
    )
    return bool(await session.scalar(select(open_items.exists())))


async def _cancelled(session: AsyncSession, run_id: uuid.UUID) -> int:
    return (
        await session.scalar(
            select(func.count())
            .select_from(OperationRunItem)
            .where(OperationRunItem.run_id == run_id, OperationRunItem.state == ItemState.CANCELLED)
        )
    ) or 0


def _duration_ms(run: OperationRun) -> int:
    assert run.completed_at is not None
    return round((run.completed_at - (run.started_at or run.created_at)).total_seconds() * 1000)
