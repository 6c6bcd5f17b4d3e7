"""Run items of a whole run, or of all of them: expand, take back, cancel, fail. Every time is the database's."""

import uuid
from typing import Any

import structlog
from sqlalchemy import CursorResult, Select, case, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.db import new_id
from opsplane.runs import metrics
from opsplane.runs.models import OperationRun, OperationRunFailure, OperationRunItem
from opsplane.runs.states import OPEN_ITEM_STATES, ItemState
from opsplane.tenants.models import Tenant
from opsplane.tenants.universe import allowed

log = structlog.get_logger()

MAX_LOST = 3

item = OperationRunItem


async def expand(session: AsyncSession, run: OperationRun) -> None:
    """One item per tenant in scope, for a retry only those that had failed; repeating it adds nothing."""
    tenants = allowed(run.workspace_id)
    if run.tenant_id is not None:
        tenants = tenants.where(Tenant.id == run.tenant_id)
    if run.retry_of_run_id is not None:
        tenants = tenants.where(Tenant.id.in_(failed_tenants(run.retry_of_run_id)))
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


def failed_tenants(run_id: uuid.UUID) -> Select[uuid.UUID | None]:
    """The tenants whose items failed in a run, as a subquery."""
    return select(item.tenant_id).where(item.run_id == run_id, item.state == ItemState.FAILED)


async def any_open(session: AsyncSession, run_id: uuid.UUID) -> tuple[bool, bool]:
    """Whether an item of the run is leased, and whether one is pending."""

    def some(state: ItemState) -> Any:
        return select(item.run_id).where(item.run_id == run_id, item.state == state).exists()

    leased, pending = (await session.execute(select(some(ItemState.RUNNING), some(ItemState.PENDING)))).one()
    return leased, pending


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
    failed = sum(row.state == ItemState.FAILED for row in touched)
    metrics.ended(session, ItemState.FAILED, failed)
    metrics.given_back(session, metrics.EXPIRED, len(touched) - failed)
    for run_id, key, tenant_id, state in touched:
        log.warning("lease_expired", run_id=str(run_id), item=key, state=state)
        if state == ItemState.FAILED:
            message = f"Its worker died or fell silent {MAX_LOST} times; look at the workers' logs before you retry."
            await add_failure(session, run_id, key, tenant_id, code="worker_lost", message=message)
    return sorted({row.run_id for row in touched})


async def cancel_pending(session: AsyncSession, run_id: uuid.UUID) -> None:
    """End every item that nobody works on."""
    cancelled = await session.execute(
        update(item)
        .where(item.run_id == run_id, item.state == ItemState.PENDING)
        .values(state=ItemState.CANCELLED, finished_at=func.clock_timestamp())
    )
    assert isinstance(cancelled, CursorResult)
    metrics.ended(session, ItemState.CANCELLED, cancelled.rowcount)


async def fail_open(session: AsyncSession, run_id: uuid.UUID, *, code: str, message: str) -> None:
    """Fail every item that has not ended, as when nobody can work on the run any more."""
    rows = await session.execute(
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
    ended = rows.all()
    metrics.ended(session, ItemState.FAILED, len(ended))
    for key, tenant_id in ended:
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
