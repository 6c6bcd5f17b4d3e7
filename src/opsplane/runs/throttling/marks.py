"""What a run's row says of its being throttled; for who is only watching."""

import uuid
from datetime import timedelta

from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.runs.models import OperationRun
from opsplane.runs.states import Status

HOLDS_FOR = timedelta(seconds=30)  # without being put again: the worker that put it may be dead

run = OperationRun
UNMARKED = {"throttled_reason": None, "throttled_at": None, "throttled_until": func.clock_timestamp()}


async def put(session: AsyncSession, run_id: uuid.UUID, reason: str) -> bool:
    """Say that a running run is throttled, and why; whichever worker spoke first says since when."""
    marked = await session.scalar(
        update(run)
        .where(run.id == run_id, run.status == Status.RUNNING)
        .values(
            throttled_reason=reason,
            throttled_at=func.coalesce(run.throttled_at, func.clock_timestamp()),
            throttled_until=func.clock_timestamp() + HOLDS_FOR,
        )
        .returning(run.id)
    )
    return marked is not None


async def lift(session: AsyncSession, run_id: uuid.UUID) -> bool:
    """Say that it goes on at full speed."""
    marked = run.throttled_reason.is_not(None)
    lifted = update(run).where(run.id == run_id, marked).values(UNMARKED).returning(run.id)
    return await session.scalar(lifted) is not None


async def lift_stale(session: AsyncSession) -> list[uuid.UUID]:
    """Take away the marks of workers that are gone. Returns the runs."""
    stale = run.throttled_until < func.clock_timestamp()
    active = run.status != Status.COMPLETED
    lifted = await session.scalars(
        update(run)
        .where(active, run.throttled_reason.is_not(None), stale)
        .values(throttled_reason=None, throttled_at=None)
        .returning(run.id)
    )
    return list(lifted.all())
