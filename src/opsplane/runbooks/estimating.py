"""An estimate from blocks spread over the table, for where an exact count would take too long."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Double,
    Row,
    Select,
    Text,
    bindparam,
    cast,
    column,
    func,
    literal,
    select,
    text,
    true,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.types import UserDefinedType

from opsplane.db import sqlstate
from opsplane.runbooks import counting
from opsplane.runbooks.counting import POSTGRES, Choice, Rows
from opsplane.runbooks.impact import Impact, rounded

UNIT_S = 0.0001  # a unit of the planner's cost takes no longer, even if each is a page of a slow disk
BLOCKS = 16  # looked at in one place; fewer would cost much more each than in a scan
FEWEST, MOST = 8, 64  # places
SMALLEST = 2 * FEWEST * BLOCKS  # blocks of a table; it would be nonsense to sample a smaller one
BUDGET_S = 0.012  # for all places; the rest of an estimate's 50 ms goes to the planner and to round trips
HELPS = 2 / 3  # measured on two processors, where two helpers and a leader need 0.4 of the time
CONFIDENCE = 1.96  # standard errors in which the truth lies 95 times of 100
FEW_PLACES = 2.5  # so much wider is the margin of few places, whose own spread is a guess
# A compiler or helpers would cost more than they save; the hashed scope must fit into memory.
SETTINGS = text("""
    SELECT set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true),
        set_config('work_mem', '64MB', true), set_config('statement_timeout', '1000', true)
""")
SIZE = text("""
    SELECT pg_relation_size(oid) / current_setting('block_size')::int FROM pg_class
    WHERE oid = to_regclass(:name) AND relkind IN ('r', 'm') AND NOT relhassubclass
""")


async def estimate(session: AsyncSession, rows: Rows, *, within_s: float) -> Impact | None:
    """What a sample says, if an exact count would take longer than `within_s`.

    None if it would not, if no wrong row is in the sample, or if the table cannot be sampled: partitioned, a view.
    """
    choice = await counting.choose(session, rows)
    if choice.best.cost * UNIT_S < within_s:
        return None
    blocks = await session.scalar(SIZE, {"name": POSTGRES.identifier_preparer.format_table(rows.table.__table__)})
    if blocks is None or blocks < SMALLEST:
        return None
    sample = await _guarded(session, rows, blocks)
    if sample is None or not any(sample.affected) or _predicted_s(choice, sample) <= within_s:
        return None
    tenants = await session.scalar(select(func.count()).select_from(rows.tenants.subquery()))
    return sample.impact(tenants or 0)


@dataclass(frozen=True)
class Sample:
    """Rows in each of some places of the table, and the time to read a place."""

    blocks: int
    affected: Sequence[int]
    total: Sequence[int]
    place_s: float

    def impact(self, tenants: int) -> Impact:
        """What it says of the whole table."""
        affected = max(1, rounded(self._whole(self.affected)))
        total = max(affected, rounded(self._whole(self.total)))
        return Impact(
            affected=affected, total=total, tenants=tenants, total_estimated=True, margin_percent=self._margin()
        )

    def _whole(self, counts: Sequence[int]) -> float:
        return sum(counts) / len(counts) * self.blocks / BLOCKS

    def _margin(self) -> float:
        # Places come in the order of the table, so neighbours are compared: what changes along it is no error.
        counts, size = self.affected, len(self.affected)
        differences = sum((one - following) ** 2 for one, following in pairwise(counts))
        unseen = 1 - size * BLOCKS / self.blocks
        error = math.sqrt(differences / (2 * (size - 1)) / size * unseen)
        wide = CONFIDENCE * (1 + FEW_PLACES / (size - 1))
        return math.ceil(wide * error / (sum(counts) / size) * 1000) / 10

    def read_all_s(self, helpers: int) -> float:
        """How long it takes to read the whole table, which is quicker in one go and with helpers."""
        return self.place_s * self.blocks / BLOCKS / (1 + helpers * HELPS)


def _predicted_s(choice: Choice, sample: Sample) -> float:
    if choice.whole is None:
        return choice.best.cost * UNIT_S
    return sample.read_all_s(choice.whole.helpers) * choice.best.cost / choice.whole.cost


async def _guarded(session: AsyncSession, rows: Rows, blocks: int) -> Sample | None:
    guard = await session.begin_nested()  # its end takes the settings back, and a cancelled statement
    try:
        await session.execute(SETTINGS)
        return await _sample(session, rows, blocks)
    except DBAPIError as error:
        if sqlstate(error) != "57014":
            raise
        return None
    finally:
        await guard.rollback()


async def _sample(session: AsyncSession, rows: Rows, blocks: int) -> Sample:
    """As many places as there is time for, which a few tell: a machine may be slow or busy."""
    few = await _look(session, _places(rows), blocks, FEWEST)
    affordable = int(BUDGET_S / few.place_s) if few.place_s else MOST
    places = max(FEWEST, min(MOST, affordable, blocks // BLOCKS // 2))
    return await _look(session, _places(rows, within=rows.in_scope), blocks, places)


async def _look(session: AsyncSession, statement: Select[Any], blocks: int, places: int) -> Sample:
    seen = (await session.execute(statement, {"last": places - 1, "apart": blocks / places})).all()
    return Sample(blocks, [row.affected for row in seen], [row.total for row in seen], _between(seen))


def _between(seen: Sequence[Row[Any]]) -> float:
    first: datetime = seen[0].at
    return float((seen[-1].at - first).total_seconds()) / (len(seen) - 1)


class _Tid(UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "tid"


def _places(rows: Rows, *, within: ColumnElement[bool] | None = None) -> Select[Any]:
    """One row for each place: `last` + 1 of them, `apart` blocks apart, each somewhere in its stretch of the table."""
    number = func.generate_series(0, bindparam("last", type_=BigInteger())).column_valued("number")
    apart: Any = bindparam("apart", type_=Double())
    places = select(
        cast(func.floor(number * apart + func.random() * (apart - BLOCKS)), BigInteger).label("block")
    ).subquery("places")
    address, start = column("ctid", _Tid()), places.c.block
    counts = (
        select(func.count().label("total"), func.count().filter(rows.selector).label("affected"))
        .select_from(rows.table)
        .where(address >= _address(start), address < _address(start + BLOCKS))
    )
    # So written, the scope is hashed once, rather than joined at every place.
    seen = (counts if within is None else counts.where(within.is_(True))).lateral("seen")
    return select(seen.c.total, seen.c.affected, func.clock_timestamp().label("at")).select_from(
        places.join(seen, true())
    )


def _address(block: Any) -> Any:
    return cast(literal("(", Text()) + cast(block, Text()) + literal(",0)", Text()), _Tid())
