"""Leases on run items: claim, change under the fence, end or give back. Every time is the database's."""

import uuid
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import case, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.runs import items, metrics
from opsplane.runs.models import OperationRun, OperationRunItem
from opsplane.runs.states import ItemState, Status

MAX_ATTEMPTS = 4
BACKOFF_S = (5, 30, 120)

item = OperationRunItem
Key = tuple[uuid.UUID, str]


class LeaseLost(Exception):
    """The fence does not know this lease: nothing of the transaction may be kept."""


class RunNotRunning(Exception):
    """The run is pausing, cancelling or over: give the item back."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One tenant's item, held by one worker until `lease_until` in the database."""

    run_id: uuid.UUID
    item_key: str
    tenant_id: uuid.UUID
    token: int
    cursor: dict[str, Any] | None
    updated: int
    passes: int
    attempts: int
    losses: int

    @property
    def key(self) -> Key:
        """Which item it is of."""
        return self.run_id, self.item_key

    @property
    def mine(self) -> Any:
        """The fence: the item, as long as nobody else has claimed it."""
        return (
            (item.run_id == self.run_id)
            & (item.item_key == self.item_key)
            & (item.lease_token == self.token)
            & (item.state == ItemState.RUNNING)
        )


async def claim(session: AsyncSession, run_id: uuid.UUID, worker: uuid.UUID, *, lease_s: float) -> Lease | None:
    """Lease the next pending item of a running run; None if there is none for now."""
    due = or_(item.not_before.is_(None), item.not_before <= func.clock_timestamp())
    running = select(OperationRun.id).where(OperationRun.id == run_id, OperationRun.status == Status.RUNNING)
    picked = (
        select(item.item_key)
        .where(item.run_id == run_id, item.state == ItemState.PENDING, due, running.exists())
        .order_by(item.ordinal)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    row = (
        await session.execute(
            update(item)
            .where(item.run_id == run_id, item.item_key == picked)
            .values(
                state=ItemState.RUNNING,
                lease_token=item.lease_token + 1,
                lease_until=_after(lease_s),
                leased_by=worker,
                started_at=func.coalesce(item.started_at, func.clock_timestamp()),
            )
            .returning(
                item.item_key,
                item.tenant_id,
                item.lease_token.label("token"),
                item.cursor,
                item.updated_count.label("updated"),
                item.passes,
                item.attempts,
                item.lost_count.label("losses"),
            )
        )
    ).one_or_none()
    return None if row is None else Lease(run_id=run_id, **row._mapping)  # noqa: SLF001 - SQLAlchemy's public API


async def fence(session: AsyncSession, lease: Lease) -> None:
    """Lock the item for the rest of the transaction, if it is still ours and the run goes on.

    Raises:
        LeaseLost: another worker has it, or it has ended.
        RunNotRunning: the run is asked to pause or cancel.
    """
    status = await session.scalar(
        select(OperationRun.status)
        .join(item, item.run_id == OperationRun.id)
        .where(lease.mine)
        .with_for_update(of=item)
    )  # fmt: skip
    if status is None:
        raise LeaseLost
    if status != Status.RUNNING:
        raise RunNotRunning


async def store(
    session: AsyncSession,
    lease: Lease,
    *,
    cursor: dict[str, Any] | None,
    updated: int,
    errors: int,
    passes: int,
    lease_s: float,
) -> Lease:
    """Store a chunk's cursor and counts and renew the lease, in the chunk's own transaction; progress forgives."""
    await session.execute(
        update(item)
        .where(lease.mine)
        .values(
            cursor=cursor,
            updated_count=item.updated_count + updated,
            error_count=item.error_count + errors,
            passes=passes,
            attempts=func.greatest(item.attempts - 1, 0),
            lost_count=0,
            not_before=None,
            trouble_code=None,
            trouble_message=None,
            lease_until=_after(lease_s),
            progress_at=func.clock_timestamp(),
        )
    )
    attempts = max(lease.attempts - 1, 0)
    return replace(
        lease, cursor=cursor, updated=lease.updated + updated, passes=passes, attempts=attempts, losses=0
    )  # fmt: skip


async def finish(session: AsyncSession, lease: Lease) -> None:
    """End an item well, in its last chunk's transaction: `skipped` if nothing was wrong there."""
    await _end(session, lease, case((item.updated_count > 0, ItemState.SUCCEEDED), else_=ItemState.SKIPPED))
    metrics.ended(session, ItemState.SUCCEEDED if lease.updated > 0 else ItemState.SKIPPED)


async def fail(session: AsyncSession, lease: Lease, *, code: str, message: str) -> None:
    """End an item with a failure that operators see."""
    await _end(session, lease, ItemState.FAILED)
    metrics.ended(session, ItemState.FAILED)
    await items.add_failure(session, lease.run_id, lease.item_key, lease.tenant_id, code=code, message=message)


async def retry_later(session: AsyncSession, lease: Lease, code: str, message: str) -> bool:
    """Give the item back to be tried after a while, with why; False when it has been tried often enough."""
    attempts = await session.scalar(
        update(item).where(lease.mine).values(attempts=item.attempts + 1).returning(item.attempts)
    )
    if attempts is None:
        raise LeaseLost
    if attempts >= MAX_ATTEMPTS:
        return False
    wait_s = BACKOFF_S[min(attempts, len(BACKOFF_S)) - 1]
    await session.execute(
        update(item)
        .where(lease.mine)
        .values(**_given_back(), not_before=_after(wait_s), trouble_code=code, trouble_message=message)
    )
    metrics.given_back(session, metrics.RETRY)
    return True


async def release(session: AsyncSession, lease: Lease, *, after_s: float = 0) -> None:
    """Give the item back, as on shutdown: no attempt is counted."""
    later = {"not_before": _after(after_s)} if after_s else {}
    given = await session.scalar(
        update(item).where(lease.mine).values(**_given_back(), **later).returning(item.item_key)
    )  # fmt: skip
    metrics.given_back(session, metrics.RELEASED, int(given is not None))


async def release_others(session: AsyncSession, worker: uuid.UUID, at_work: Collection[Key]) -> list[uuid.UUID]:
    """Give back every item the worker has leased but those; a claim it is just hearing of is lost. Returns the runs."""
    given = await session.scalars(
        update(item)
        .where(item.leased_by == worker, item.state == ItemState.RUNNING)
        .where(tuple_(item.run_id, item.item_key).not_in(list(at_work)))
        .values(**_given_back())
        .returning(item.run_id)
    )
    runs = given.all()
    metrics.given_back(session, metrics.LEFT_BEHIND, len(runs))
    return sorted(set(runs))


async def _end(session: AsyncSession, lease: Lease, state: Any) -> None:
    ended = await session.scalar(
        update(item)
        .where(lease.mine)
        .values(state=state, lease_until=None, leased_by=None, finished_at=func.clock_timestamp())
        .returning(item.item_key)
    )
    if ended is None:
        raise LeaseLost


def _given_back() -> dict[str, Any]:
    return {"state": ItemState.PENDING, "lease_until": None, "leased_by": None}


def _after(seconds: float) -> Any:
    return func.clock_timestamp() + timedelta(seconds=seconds)
