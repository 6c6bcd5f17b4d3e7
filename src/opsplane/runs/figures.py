"""What a run looks like drawn: a letter for each tenant, and how fast the rows went."""

import math
import uuid
from typing import Any

from pydantic import BaseModel
from sqlalchemy import CTE, Float, Integer, Row, ScalarSelect, Select, case, cast, func, literal, select, true
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.runs.models import OperationRun, OperationRunItem
from opsplane.runs.states import ItemState
from opsplane.runs.views import RunNotFound

MAX_CELLS = 5_000
MAX_POINTS = 60
NARROWEST, WIDEST = 40, 100
SHORTEST_POINT_S = 0.25

# What needs attention most comes first; `k` is skipped.
BY_ATTENTION = (
    ItemState.FAILED,
    ItemState.RUNNING,
    ItemState.PENDING,
    ItemState.CANCELLED,
    ItemState.SUCCEEDED,
    ItemState.SKIPPED,
)
LETTERS = "frpcsk"

run, item = OperationRun, OperationRunItem


class FiguresOut(BaseModel):
    """A run as a grid of tenants and a line of its speed.

    `cells`, to be set in rows of `columns`, has a letter for each tenant in order of work:
    pending, running, succeeded, sKipped, failed or cancelled; of several in one cell it is the
    one that needs attention most.
    `throughput` is rows by when their tenants ended, in equal intervals from the start to now or the end.
    """

    cells: str
    columns: int
    tenants_per_cell: int
    throughput: list[int]
    seconds_per_point: float


async def show(session: AsyncSession, run_id: uuid.UUID) -> FiguresOut:
    """The figures of one run at this moment, in one statement.

    Raises:
        RunNotFound: 404.
    """
    row = (await session.execute(_figures(run_id))).one_or_none()
    if row is None:
        raise RunNotFound(run_id)
    return _present(row)


def _present(row: Row[*tuple[Any, ...]]) -> FiguresOut:
    cells, per_cell, rows, points, span_s = row
    begun = span_s is not None
    return FiguresOut(
        cells=cells or "",
        columns=_columns(len(cells or "")),
        tenants_per_cell=per_cell or 1,
        throughput=[int((rows or {}).get(str(point), 0)) for point in range(points)] if begun else [],
        seconds_per_point=round(span_s / points, 3) if begun else 0,
    )


def _columns(cells: int) -> int:
    """A picture about eight times as wide as high, whose cells stay large enough to see."""
    return max(NARROWEST, min(WIDEST, round(math.sqrt(8 * cells))))


def _figures(run_id: uuid.UUID) -> Select[*tuple[Any, ...]]:
    clock, grid = _clock(run_id), _grid(run_id)
    per_cell = select(func.max(grid.c.per_cell)).scalar_subquery()
    cells = select(func.string_agg(func.substr(LETTERS, grid.c.rank, 1), aggregate_order_by(literal(""), grid.c.cell)))
    return select(cells.scalar_subquery(), per_cell, _speed(run_id, clock), clock.c.points, clock.c.span_s)


def _clock(run_id: uuid.UUID) -> CTE:
    """How long the run took so far, null before its start, and in how many intervals that is shown."""
    ends = func.coalesce(run.completed_at, func.statement_timestamp())
    took_s = cast(func.extract("epoch", ends - run.started_at), Float)
    span_s = case((run.started_at.is_not(None), func.greatest(took_s, 0.001)))
    points = cast(func.least(MAX_POINTS, func.ceil(span_s / SHORTEST_POINT_S)), Integer)
    return select(run.started_at, span_s.label("span_s"), points.label("points")).where(run.id == run_id).cte("clock")


def _grid(run_id: uuid.UUID) -> CTE:
    """The cells, each with the rank of the tenant in it that needs attention most."""
    place = func.row_number().over(order_by=(item.ordinal, item.item_key)) - 1
    rank = case({state: at for at, state in enumerate(BY_ATTENTION, start=1)}, value=item.state)
    per_cell = func.ceil(func.count().over() / float(MAX_CELLS))
    placed = (
        select(place.label("place"), rank.label("rank"), cast(per_cell, Integer).label("per_cell"))
        .where(item.run_id == run_id)
        .cte("placed")
    )
    cell = placed.c.place // placed.c.per_cell
    return (
        select(cell.label("cell"), func.min(placed.c.rank).label("rank"), func.max(placed.c.per_cell).label("per_cell"))
        .group_by(cell)
        .cte("grid")
    )


def _speed(run_id: uuid.UUID, clock: CTE) -> ScalarSelect[Any]:
    """The rows of each interval in which any tenant ended, as a document."""
    after_s = cast(func.extract("epoch", item.finished_at - clock.c.started_at), Float)
    point = func.width_bucket(after_s, 0, clock.c.span_s, clock.c.points) - 1
    within = func.least(clock.c.points - 1, func.greatest(0, point))  # one may have ended since this statement began
    ended = (
        select(within.label("point"), func.sum(item.updated_count).label("rows"))
        .select_from(item)
        .join(clock, true())
        .where(item.run_id == run_id, item.finished_at.is_not(None))
        .group_by(within)
        .cte("ended")
    )
    return select(func.jsonb_object_agg(ended.c.point, ended.c.rows)).scalar_subquery()
