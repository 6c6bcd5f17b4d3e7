"""Summary counts: the one place that knows their keys and how items add up to them."""

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.runs.models import OperationRun, OperationRunItem
from opsplane.runs.states import OPEN_ITEM_STATES, ItemState

# tenants … skipped count items, updated and errors count rows.
KEYS = ("tenants", "total", "processed", "succeeded", "failed", "skipped", "updated", "errors")


def checked(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts in the order of the allow-list, if every key is on it.

    Raises:
        ValueError: an unknown key, which is a programming error.
    """
    if unknown := sorted(set(counts) - set(KEYS)):
        raise ValueError(f"summary_counts does not know {', '.join(unknown)}")
    return {key: counts[key] for key in KEYS if key in counts}


async def current(session: AsyncSession, run: OperationRun) -> dict[str, int]:
    """The run's counts of this moment: kept ones once it has ended."""
    return checked(run.summary_counts) if run.completed_at else await count(session, run.id)


async def count(session: AsyncSession, run_id: uuid.UUID) -> dict[str, int]:
    """What the run's items add up to at this moment."""
    item = OperationRunItem

    def items(*states: ItemState) -> Any:
        return func.count().filter(item.state.in_(states))

    row = (
        await session.execute(
            select(
                func.count().label("total"),
                (func.count() - items(*OPEN_ITEM_STATES)).label("processed"),
                items(ItemState.SUCCEEDED).label("succeeded"),
                items(ItemState.FAILED).label("failed"),
                items(ItemState.SKIPPED).label("skipped"),
                func.coalesce(func.sum(item.updated_count), 0).label("updated"),
                func.coalesce(func.sum(item.error_count), 0).label("errors"),
            ).where(item.run_id == run_id)
        )
    ).one()
    counts = {key: int(value) for key, value in row._mapping.items()}  # noqa: SLF001 - SQLAlchemy's public API
    return checked({"tenants": counts["total"], **counts})
