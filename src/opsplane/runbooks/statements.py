"""The one statement of a repair: the wrong rows of a tenant, or of several small ones, are found and put right."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

from sqlalchemy import (
    CHAR,
    CTE,
    BigInteger,
    Boolean,
    ColumnClause,
    ColumnElement,
    FromClause,
    Select,
    Text,
    Uuid,
    any_,
    bindparam,
    case,
    cast,
    column,
    func,
    literal_column,
    or_,
    select,
    table,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from opsplane.lookups import Lookup, as_stored
from opsplane.runbooks.counting import POSTGRES

BITE = 2000  # rows of one statement: what it read is then still in the processor's cache when it is written
TOGETHER = 64  # tenants of one statement, as each row's tenant is looked up among them
TENANTS = bindparam("tenants", type_=ARRAY(Uuid()))
LIMIT = bindparam("limit", type_=BigInteger())
# Hidden from the planner, which otherwise reads and sorts a whole tenant where it takes it for a small one.
WINDOW = select(bindparam("window", type_=BigInteger())).scalar_subquery()
_pg_class = table(
    "pg_class", column("oid"), column("relkind", CHAR()), column("relhassubclass", Boolean()), schema="pg_catalog"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Statements:
    """Of one table; the first one begins with its tenants, the following one behind the key `after` in the only one.

    Both take `tenants`, at most `limit` wrong rows among the next `window` rows, in the order of tenants and keys.
    They answer, in columns of every row: how many wrong rows were found; how many rows were looked at, None if the
    limit was reached before; the number of the last tenant that was looked at, from 1 (None if none has rows), and
    the last key. And, for each tenant that has wrong rows, a row: its number, and how many of its rows were found,
    were changed, and are still wrong. Without such tenants there is one row, where these four are None.
    """

    table: Any
    tenant: Any
    key: Any
    wrong: ColumnElement[bool]
    right: Mapping[str, Any]

    @cached_property
    def first(self) -> Lookup:
        """From the first row."""
        return Lookup.of(self.first_of(_given()))

    @cached_property
    def following(self) -> Lookup:
        """From a cursor; `after` is what the driver calls the key, as is the key that is told."""
        return Lookup.of(self.following_of(_given()))

    def first_of(self, tenants: FromClause) -> Select[Any]:
        """The first statement over those of its `tenants` that this gives, each with its number, in their order."""
        return self._chunk(tenants, true())

    def following_of(self, tenants: FromClause) -> Select[Any]:
        """The following statement over the only tenant, if this gives it."""
        return self._chunk(tenants, self.key > bindparam("after", type_=as_stored(self.key.type)))

    def encode(self, key: Any) -> Any:
        """A key as a cursor keeps it."""
        return key if isinstance(key, int) else str(key)

    def encoded(self, key: ColumnElement[Any]) -> ColumnElement[Any]:
        """The same in SQL, where it becomes JSON, which has floating-point numbers only."""
        return cast(key, Text) if issubclass(as_stored(self.key.type).python_type, Decimal) else key

    def decode(self, kept: Any) -> Any:
        """A cursor's key as the driver takes it."""
        return kept if isinstance(kept, int) else self._read(kept)

    @cached_property
    def _read(self) -> Callable[[str], Any]:
        stored = as_stored(self.key.type).python_type
        read: Callable[[str], Any] = getattr(stored, "fromisoformat", stored)
        return read

    def _chunk(self, tenants: FromClause, selected: ColumnElement[bool]) -> Select[Any]:
        rows = self._rows(tenants.c.tenant, selected)
        # PostgreSQL reads `looked_at` only as far as `found` needs it, tenant by tenant in the index's order. Where
        # many rows are wrong, few are looked at; where few are wrong, no more than the window, so no chunk takes long.
        looked_at = (
            select(tenants.c.nr, rows.c.place, rows.c.key, rows.c.wrong)
            .select_from(tenants.join(rows, true()))
            .limit(WINDOW)
            .cte("looked_at")
            .prefix_with("MATERIALIZED")
        )
        wrong = select(looked_at.c.nr, looked_at.c.place, looked_at.c.key).where(looked_at.c.wrong)
        found = wrong.limit(LIMIT).cte("found")
        of_found = select(found.c.nr, func.count().label("found")).group_by(found.c.nr).cte("of_found")
        changed = self._changed(found, of_found, tenants)
        return _summary(looked_at, found, of_found, _of_changed(changed, tenants))

    def _rows(self, tenant: ColumnElement[Any], selected: ColumnElement[bool]) -> FromClause:
        return (
            select(self._place.label("place"), self.key.label("key"), self.wrong.label("wrong"))
            .where(self.tenant == tenant, selected)
            .order_by(self.key)
            .limit(WINDOW)
            .lateral("rows")
        )

    def _changed(self, found: CTE, of_found: CTE, tenants: FromClause) -> CTE:
        # The selector is repeated: a row that somebody repaired meanwhile is neither written nor counted.
        # So is the key where that is not one plain table, as each partition has places of its own; within a function
        # the planner makes no join of it, which without statistics would be one of each row with each.
        # A row that somebody gave to another tenant meanwhile is changed if that one will be counted here as well.
        places = func.array(select(found.c.place).scalar_subquery())
        counted = select(tenants.c.tenant).where(tenants.c.nr.in_(select(of_found.c.nr)))
        is_found = or_(self._is_one_table, func.coalesce(self.key.in_(select(found.c.key)), False))
        is_counted = self.tenant == any_(func.array(counted.scalar_subquery()))
        return (
            update(self.table)
            .values(self.right)
            .where(self._place == any_(places), is_found, is_counted, self.wrong)
            .returning(self.tenant.label("tenant"), self.wrong.label("still"))
            .cte("changed")
        )

    @property
    def _is_one_table(self) -> ColumnElement[bool]:
        name = POSTGRES.identifier_preparer.format_table(self.table.__table__).replace("'", "''")
        of_table: ColumnElement[bool] = _pg_class.c.oid == literal_column(f"'{name}'::regclass")
        is_plain = (_pg_class.c.relkind == "r") & ~_pg_class.c.relhassubclass
        return select(is_plain).where(of_table).scalar_subquery()

    @cached_property
    def _place(self) -> ColumnElement[Any]:
        place: ColumnClause[Any] = column("ctid")
        place.table = self.table.__table__
        return place


def _given() -> FromClause:
    return func.unnest(TENANTS).table_valued("tenant", with_ordinality="nr", name="given").render_derived()


def _summary(looked_at: CTE, found: CTE, of_found: CTE, of_changed: FromClause) -> Select[Any]:
    whole = select(func.coalesce(func.sum(of_found.c.found), 0).cast(BigInteger).label("found")).cte("whole")
    enough = whole.c.found >= LIMIT
    # Those that were found are kept in the order in which they were looked at: the last of enough is at their limit.
    last_found = select(found.c.nr, found.c.key).where(enough).offset(LIMIT - 1).limit(1).lateral()
    last_looked_at = _last(looked_at, ~enough)
    each = _each(of_found, of_changed)
    return select(
        whole.c.found,
        case((enough, None), else_=select(func.count()).select_from(looked_at).scalar_subquery()).label("looked_at"),
        func.coalesce(last_found.c.nr, last_looked_at.c.nr).label("nr"),
        func.coalesce(last_found.c.key, last_looked_at.c.key).label("key"),
        *each.c,
    ).select_from(
        whole.outerjoin(last_found, true()).outerjoin(last_looked_at, true()).outerjoin(each, true())
    )  # fmt: skip


def _last(rows: CTE, needed: ColumnElement[bool]) -> FromClause:
    ordered = select(rows.c.nr, rows.c.key).where(needed).order_by(rows.c.nr.desc(), rows.c.key.desc())
    return ordered.limit(1).lateral()


def _of_changed(changed: CTE, tenants: FromClause) -> FromClause:
    each = (
        select(
            changed.c.tenant, func.count().label("updated"), func.count().filter(changed.c.still).label("still")
        )
        .group_by(changed.c.tenant)
        .subquery("of_tenant")
    )  # fmt: skip
    return select(tenants.c.nr, each.c.updated, each.c.still).join(each, each.c.tenant == tenants.c.tenant).subquery()


def _each(of_found: CTE, of_changed: FromClause) -> FromClause:
    return (
        select(
            of_found.c.nr.label("tenant_nr"),
            of_found.c.found.label("tenant_found"),
            func.coalesce(of_changed.c.updated, 0).label("updated"),
            func.coalesce(of_changed.c.still, 0).label("still"),
        )
        .select_from(of_found.outerjoin(of_changed, of_changed.c.nr == of_found.c.nr))
        .subquery("each")
    )
