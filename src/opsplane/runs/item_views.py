"""What REST and the pages show of a run's items."""

import uuid
from datetime import datetime

from pydantic import BaseModel
from sqlalchemy import and_, select
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.runs.models import OperationRun, OperationRunFailure, OperationRunItem
from opsplane.runs.states import ItemState
from opsplane.runs.views import RunNotFound
from opsplane.tenants.models import Tenant


class ItemOut(BaseModel):
    """One tenant's part of a run; `ordinal` is its place in the order of work, from 1.

    One that waits for another try at `retry_at` says by `failure_code` why.
    """

    ordinal: int
    tenant_id: uuid.UUID | None
    tenant_external_id: str | None
    state: ItemState
    updated_count: int
    error_count: int
    attempts: int
    lost_count: int
    failure_code: str | None
    failure_message: str | None
    retry_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None


async def page(
    session: AsyncSession, run_id: uuid.UUID, *, state: ItemState | None = None, after: int | None, limit: int
) -> list[ItemOut]:
    """Items in their order of work, after the one at `after`.

    Raises:
        NotFound: there is no such run (404).
    """
    if await session.get(OperationRun, run_id) is None:
        raise RunNotFound(run_id)
    item, failure = OperationRunItem, OperationRunFailure
    items = (
        select(item, Tenant.external_id, failure.code, failure.message)
        .outerjoin(Tenant, Tenant.id == item.tenant_id)
        .outerjoin(failure, and_(failure.run_id == item.run_id, failure.item_key == item.item_key))
        .where(item.run_id == run_id)
        .order_by(item.ordinal)
        .limit(limit)
    )
    if after is not None:
        items = items.where(item.ordinal > after)
    if state is not None:
        items = items.where(item.state == state)
    return [_present(*row) for row in await session.execute(items)]


def _present(item: OperationRunItem, external_id: str | None, code: str | None, message: str | None) -> ItemOut:
    waits = item.state == ItemState.PENDING and item.not_before is not None
    if waits:
        code, message = item.trouble_code, item.trouble_message
    return ItemOut.model_validate(
        {
            **vars(item),
            "tenant_external_id": external_id,
            "failure_code": code,
            "failure_message": message,
            "retry_at": item.not_before if waits else None,
        }
    )
