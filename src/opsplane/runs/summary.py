"""Summary counts: the one place that knows their keys and how items add up to them."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, Select, Uuid, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.db import Database
from opsplane.lookups import Lookup, parameter
from opsplane.runs.models import OperationRun, OperationRunItem
from opsplane.runs.states import OPEN_ITEM_STATES, ItemState

# tenants … skipped count items, updated and errors count rows.
KEYS = ("tenants", "total", "processed", "succeeded", "failed", "skipped", "updated", "errors")
_ALL = frozenset(KEYS)

item = OperationRunItem


def checked(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts in the order of the allow-list, if every key is on it.

    Raises:
        ValueError: an unknown key, which is a programming error.
    """
    if counts.keys() == _ALL:
        return {key: counts[key] for key in KEYS}
    if unknown := sorted(counts.keys() - _ALL):
        raise ValueError(f"summary_counts does not know {', '.join(unknown)}")
    return {key: counts[key] for key in KEYS if key in counts}


async def current(session: AsyncSession, run: OperationRun) -> dict[str, int]:
    """The run's counts of this moment: kept ones once it has ended."""
    return checked(run.summary_counts) if run.completed_at else await count(session, run.id)


async def count(session: AsyncSession, run_id: uuid.UUID) -> dict[str, int]:
    """What the run's items add up to at this moment."""
    return _counted((await session.execute(_sums().where(item.run_id == run_id))).mappings().one())


async def look(db: Database, run_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, dict[str, int]]:
    """What the items of several runs add up to; a run without items is not among them."""
    return {row["run_id"]: _counted(row) for row in await db.look(OF_RUNS, run_ids=run_ids)}


def _counted(row: Mapping[Any, Any]) -> dict[str, int]:
    counts = {key: int(row[key]) for key in KEYS if key != "tenants"}
    return checked({"tenants": counts["total"], **counts})


def _sums() -> Select[*tuple[Any, ...]]:
    def items(*states: ItemState) -> Any:
        return func.count().filter(item.state.in_(states))

    return select(
        func.count().label("total"),
        (func.count() - items(*OPEN_ITEM_STATES)).label("processed"),
        items(ItemState.SUCCEEDED).label("succeeded"),
        items(ItemState.FAILED).label("failed"),
        items(ItemState.SKIPPED).label("skipped"),
        func.coalesce(func.sum(item.updated_count), 0).label("updated"),
        func.coalesce(func.sum(item.error_count), 0).label("errors"),
    )


OF_RUNS = Lookup.of(
    _sums()
    .add_columns(item.run_id)
    .where(item.run_id == func.any(parameter("run_ids", ARRAY(Uuid()))))
    .group_by(item.run_id)
)
