"""An exact count in one statement: of three ways to write it, the one that the planner holds to be the cheapest."""

import uuid
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal_column, select
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase

from opsplane.runbooks import plans
from opsplane.runbooks.impact import Impact
from opsplane.runbooks.inlining import inlined
from opsplane.runbooks.plans import Plan
from opsplane.tenants.models import Tenant

QUICK = 20_000  # of the planner's units: a fifth of a second or less
MUCH_CHEAPER = 0.8  # an index-only scan takes less of the time than of the cost

POSTGRES = dialect()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Rows:
    """What a preflight of a `RepairRunbook` looks at."""

    table: type[DeclarativeBase]
    tenant: Any
    wrong: ColumnElement[bool]
    tenants: Select[uuid.UUID]

    @cached_property
    def selector(self) -> ColumnElement[bool]:
        """`wrong` with its values written out: only so does the planner see that a partial index fits."""
        written: ColumnElement[bool] = inlined(self.wrong)
        return written

    @cached_property
    def picked(self) -> Select[Any]:
        """Counts only the rows of the tenants in scope: best if they are few."""
        return _summed(self._per_tenant().where(self.in_scope))

    @cached_property
    def whole(self) -> Select[Any]:
        """Counts every tenant's rows, then leaves out who is not in scope: best if that is hardly anybody."""
        return self._of_scope(self._per_tenant())

    @cached_property
    def wrong_alone(self) -> Select[Any]:
        """Counts nothing but wrong rows: best if an index leads to them. What it says of the total is wrong."""
        affected = func.count().label("affected")
        per_tenant = select(self.tenant.label("tenant"), affected, affected.label("total"))
        return self._of_scope(per_tenant.where(self.selector).group_by(self.tenant))

    @cached_property
    def left_out(self) -> Select[Any]:
        """How many tenants are not in scope."""
        in_scope = select(func.count()).select_from(self.tenants.subquery()).scalar_subquery()
        return select(func.count() - in_scope).select_from(Tenant)

    def themselves(self, *, everybody: bool) -> Select[Any]:
        """The rows; for the planner, never run."""
        every: Select[Any] = select(literal_column("1")).select_from(self.table)
        return every if everybody else every.where(self.in_scope)

    @property
    def in_scope(self) -> ColumnElement[bool]:
        """Whether a row's tenant is one of those."""
        return self.tenant.in_(self.tenants)  # type: ignore[no-any-return]

    def _per_tenant(self) -> Select[Any]:
        affected = func.count().filter(self.selector).label("affected")
        return select(self.tenant.label("tenant"), affected, func.count().label("total")).group_by(self.tenant)

    def _of_scope(self, per_tenant: Select[Any]) -> Select[Any]:
        return _summed(per_tenant, in_scope=self.tenants)


def _summed(per_tenant: Select[Any], *, in_scope: Select[uuid.UUID] | None = None) -> Select[Any]:
    each = per_tenant.subquery("per_tenant")
    summed = select(
        func.coalesce(func.sum(each.c.affected), 0),
        func.coalesce(func.sum(each.c.total), 0),
        func.count().filter(each.c.affected > 0),
    )
    return summed if in_scope is None else summed.where(each.c.tenant.in_(in_scope))


@dataclass(frozen=True)
class Choice:
    """The cheapest way to count, and the way that reads the whole table, if that was thought of."""

    best: Plan
    whole: Plan | None = None


async def choose(session: AsyncSession, rows: Rows) -> Choice:
    """Ask the planner which way to count."""
    picked = await plans.plan(session, rows.picked)
    if picked.cost < QUICK:
        return Choice(picked)
    whole, wrong = await plans.plan(session, rows.whole), await plans.plan(session, rows.wrong_alone)
    both = min(picked, whole, key=lambda way: way.cost)
    return Choice(wrong if wrong.cost < both.cost * MUCH_CHEAPER else both, whole)


async def count(session: AsyncSession, rows: Rows) -> Impact:
    """Count exactly, but for the total where an index leads to the wrong rows alone: that is the planner's guess."""
    best = (await choose(session, rows)).best
    affected, total, tenants = map(int, (await session.execute(best.statement)).one())
    if best.statement is not rows.wrong_alone:
        return Impact(affected=affected, total=total, tenants=tenants)
    total = max(affected, await _guess(session, rows))
    return Impact(affected=affected, total=total, tenants=tenants, total_estimated=True)


async def _guess(session: AsyncSession, rows: Rows) -> int:
    # Where only the platform is left out, the table as a whole is the better guess: the platform hardly has rows.
    everybody = (await session.scalar(rows.left_out) or 0) <= 1
    return (await plans.plan(session, rows.themselves(everybody=everybody))).rows
