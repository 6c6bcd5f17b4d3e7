"""Run items: expand, claim under a lease, change under the fence, end. Every time is the database's."""

import uuid
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import case, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.db import new_id
from opsplane.runs.models import OperationRun, OperationRunFailure, OperationRunItem
from opsplane.runs.states import OPEN_ITEM_STATES, ItemState, Status
from opsplane.tenants.models import Tenant
from opsplane.tenants.universe import allowed

MAX_LOST = 3
MAX_ATTEMPTS = 4
BACKOFF_S = (5, 30, 120)

item = OperationRunItem


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

    @property
    def mine(self) -> Any:
        """The fence: the item, as long as nobody else has claimed it."""
        return (
            (item.run_id == self.run_id)
            & (item.item_key == self.item_key)
            & (item.lease_token == self.token)
            & (item.state == ItemState.RUNNING)
        )


async def expand(session: AsyncSession, run: OperationRun) -> None:
    """One item per tenant in scope; repeating it adds nothing."""
    tenants = allowed(run.workspace_id)
    if run.tenant_id is not None:
        tenants = tenants.where(Tenant.id == run.tenant_id)
    rows = tenants.with_only_columns(
        literal(run.id),
        func.cast(Tenant.id, item.item_key.type),
        Tenant.id,
        func.row_number().over(order_by=Tenant.external_id),
    )
    await session.execute(
        insert(item)
        .from_select(["run_id", "item_key", "tenant_id", "ordinal"], rows)
        .on_conflict_do_nothing()
    )  # fmt: skip


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
                item.lease_token,
                item.cursor,
                item.updated_count,
                item.passes,
                item.attempts,
            )
        )
    ).one_or_none()
    if row is None:
        return None
    key, tenant_id, token, cursor, updated, passes, attempts = row
    return Lease(
        run_id=run_id, item_key=key, tenant_id=tenant_id, token=token, cursor=cursor, updated=updated, passes=passes,
        attempts=attempts,
    )  # fmt: skip


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
    """Store a chunk's cursor and counts and renew the lease, in the chunk's own transaction."""
    await session.execute(
        update(item)
        .where(lease.mine)
        .values(
            cursor=cursor,
            updated_count=item.updated_count + updated,
            error_count=item.error_count + errors,
            passes=passes,
            attempts=func.greatest(item.attempts - 1, 0),  # progress forgives
            lease_until=_after(lease_s),
            progress_at=func.clock_timestamp(),
        )
    )
    attempts = max(lease.attempts - 1, 0)
    return replace(lease, cursor=cursor, updated=lease.updated + updated, passes=passes, attempts=attempts)


async def finish(session: AsyncSession, lease: Lease) -> None:
    """End an item well, in its last chunk's transaction: `skipped` if nothing was wrong there."""
    await _end(session, lease, case((item.updated_count > 0, ItemState.SUCCEEDED), else_=ItemState.SKIPPED))


async def fail(session: AsyncSession, lease: Lease, *, code: str, message: str) -> None:
    """End an item with a failure that operators see."""
    await _end(session, lease, ItemState.FAILED)
    await add_failure(session, lease.run_id, lease.item_key, lease.tenant_id, code=code, message=message)


async def retry_later(session: AsyncSession, lease: Lease) -> bool:
    """Give the item back to be tried after a while; False when it has been tried often enough."""
    attempts = await session.scalar(
        update(item).where(lease.mine).values(attempts=item.attempts + 1).returning(item.attempts)
    )
    if attempts is None:
        raise LeaseLost
    if attempts >= MAX_ATTEMPTS:
        return False
    wait_s = BACKOFF_S[min(attempts, len(BACKOFF_S)) - 1]
    await session.execute(update(item).where(lease.mine).values(**_given_back(), not_before=_after(wait_s)))
    return True


async def release(session: AsyncSession, lease: Lease) -> None:
    """Give the item back at once, as on shutdown: no attempt is counted."""
    await session.execute(update(item).where(lease.mine).values(**_given_back()))


async def free_expired(session: AsyncSession) -> list[uuid.UUID]:
    """Take back items whose worker fell silent; after the third time they fail. Returns the runs concerned."""
    expired = (
        select(item.run_id, item.item_key)
        .where(item.state == ItemState.RUNNING, item.lease_until < func.clock_timestamp())
        .limit(1000)
        .with_for_update(skip_locked=True)
        .cte("expired")
    )
    lost = item.lost_count + 1
    rows = await session.execute(
        update(item)
        .where(item.run_id == expired.c.run_id, item.item_key == expired.c.item_key)
        .values(
            state=case((lost >= MAX_LOST, ItemState.FAILED), else_=ItemState.PENDING),
            finished_at=case((lost >= MAX_LOST, func.clock_timestamp())),
            lost_count=lost,
            lease_token=item.lease_token + 1,
            lease_until=None,
            leased_by=None,
        )
        .returning(item.run_id, item.item_key, item.tenant_id, item.state)
    )
    touched = list(rows)
    for run_id, key, tenant_id, state in touched:
        if state == ItemState.FAILED:
            message = f"Its worker died or fell silent {MAX_LOST} times; look at the workers' logs before you retry."
            await add_failure(session, run_id, key, tenant_id, code="worker_lost", message=message)
    return sorted({row.run_id for row in touched})


async def fail_open(session: AsyncSession, run_id: uuid.UUID, *, code: str, message: str) -> None:
    """Fail every item that has not ended, as when nobody can work on the run any more."""
    ended = await session.execute(
        update(item)
        .where(item.run_id == run_id, item.state.in_(OPEN_ITEM_STATES))
        .values(
            state=ItemState.FAILED,
            lease_token=item.lease_token + 1,
            lease_until=None,
            leased_by=None,
            finished_at=func.clock_timestamp(),
        )
        .returning(item.item_key, item.tenant_id)
    )
    for key, tenant_id in ended.all():
        await add_failure(session, run_id, key, tenant_id, code=code, message=message)


async def add_failure(
    session: AsyncSession, run_id: uuid.UUID, key: str, tenant_id: uuid.UUID | None, *, code: str, message: str
) -> None:
    """Say why an item failed."""
    await session.execute(
        insert(OperationRunFailure)
        .values(id=new_id(), run_id=run_id, item_key=key, tenant_id=tenant_id, code=code, message=message)
        .on_conflict_do_nothing()
    )  # fmt: skip


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
