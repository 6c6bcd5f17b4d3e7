"""The index that fits a runbook's selector: how it is made, what it costs, and whether it is there."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, text
from sqlalchemy.exc import CompileError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql import visitors
from sqlalchemy.sql.functions import FunctionElement

from opsplane.runbooks import counting
from opsplane.runbooks.counting import POSTGRES, Rows

LARGE = 1_000_000  # rows; a smaller table is counted in a tenth of a second without an index
LARGE_BYTES = 100_000_000  # where nothing is known of the rows
LONGEST_NAME = 63
# Of those whose value changes, the ones that an index cannot hold.
NOT_IMMUTABLE = {
    "now", "current_timestamp", "current_date", "current_time", "localtimestamp", "localtime", "clock_timestamp",
    "statement_timestamp", "transaction_timestamp", "random", "age", "current_user", "gen_random_uuid",
}  # fmt: skip
STATE = text("""
    SELECT pg_class.reltuples AS rows, pg_relation_size(pg_class.oid) AS bytes, pg_index.indisvalid AS valid
    FROM pg_class LEFT JOIN pg_index ON indrelid = pg_class.oid AND indexrelid = to_regclass(:index)
    WHERE pg_class.oid = to_regclass(:table)
""")


@dataclass(frozen=True)
class Index:
    """An index that a runbook offers; `where` makes it a partial one."""

    name: str
    columns: tuple[str, ...]
    where: ColumnElement[bool] | None = None


@dataclass(frozen=True)
class Advice:
    """What the doctor says of a runbook's table; not well if something is broken rather than merely missing."""

    well: bool
    said: str


def partial(key: str, wrong: ColumnElement[bool], *, on: tuple[str, ...]) -> Index | None:
    """One that holds nothing but wrong rows.

    None for a selector whose answer changes by itself, as with `now()`, or with a value that cannot be written down.
    """
    called = {part.name.lower() for part in visitors.iterate(wrong) if isinstance(part, FunctionElement)}
    if called & NOT_IMMUTABLE:
        return None
    try:
        _sql(wrong)
    except CompileError:
        return None
    return Index(_name(key), on, wrong)


def create(index: Index, rows: Rows) -> str:
    """The statement that makes it while others write."""
    quote = POSTGRES.identifier_preparer.quote
    columns = ", ".join(quote(column) for column in index.columns)
    statement = f"CREATE INDEX CONCURRENTLY {quote(index.name)} ON {_table(rows)} ({columns})"
    return statement if index.where is None else f"{statement} WHERE {_sql(index.where)}"


def drop(index: Index) -> str:
    """The statement that takes it away while others write."""
    return f"DROP INDEX CONCURRENTLY {POSTGRES.identifier_preparer.quote(index.name)}"


def cost(index: Index) -> str:
    """What writers pay while it is there."""
    watched = _columns(index.where) or ", ".join(index.columns)
    return (
        f"inserts of wrong rows take about a third longer, and updates of {watched} up to three times as "
        f"long (they are no longer HOT). Drop it when nobody looks any more: {drop(index)}"
    )


async def advice(session: AsyncSession, key: str, index: Index | None, rows: Rows) -> Advice | None:
    """What to do about the statistics and the index of a runbook's table; None if it is small, or all is well."""
    found = await session.execute(STATE, {"table": _table(rows), "index": index and index.name})
    state = found.one_or_none()
    if state is None:
        return None
    if index is not None and state.valid is False:
        return Advice(False, f"{key}: {index.name} was never finished, and only costs; {drop(index)}, then create it")
    if state.rows < 0 and state.bytes > LARGE_BYTES:
        return Advice(False, f"{key}: the planner knows nothing of its table; ANALYZE {_table(rows)}")
    if index is None or state.valid or state.rows < LARGE:
        return None
    choice = await counting.choose(session, rows)
    if choice.best.statement is rows.wrong_alone:
        return None  # an index of the application's own does
    looks = f"{key}: a preflight looks through {state.rows:,.0f} rows; with an index about five times as quick: "
    return Advice(True, f"{looks}{create(index, rows)}. While it is there, {cost(index)}")


def _name(key: str) -> str:
    name = f"ix_wrong_{re.sub(r'[^a-z0-9]+', '_', key)}"
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 9]}_{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def _table(rows: Rows) -> str:
    return POSTGRES.identifier_preparer.format_table(rows.table.__table__)


def _columns(condition: ColumnElement[bool] | None) -> str:
    parts: Any = [] if condition is None else visitors.iterate(condition)
    return ", ".join(dict.fromkeys(part.name for part in parts if isinstance(part, Column)))


def _sql(condition: ColumnElement[bool]) -> str:
    options = {"literal_binds": True, "include_table": False}
    return str(condition.compile(dialect=POSTGRES, compile_kwargs=options))
