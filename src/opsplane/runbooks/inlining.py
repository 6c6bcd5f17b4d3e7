"""An author's expressions with their values written out, as the planner and the driver like them.

A partial index serves a statement only if the planner can see that its predicate follows, which it cannot see through
parameters; and thirty parameters that never change cost more in every call than a small chunk does.
"""

import uuid
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, FromClause, SelectBase, cast, literal_column
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.exc import CompileError
from sqlalchemy.sql import visitors
from sqlalchemy.sql.functions import FunctionElement

_dialect = dialect()  # type: ignore[no-untyped-call]
_PLAIN = (str, int, float, Decimal, date, timedelta, uuid.UUID)


def inlined(expression: Any) -> Any:
    """The same expression as SQL text; unchanged if it has a value that cannot be written as a literal, or a subquery.

    Its columns are qualified by their table's name, so that table has to be in the statement under this name.
    """
    if not isinstance(expression, ColumnElement) or not all(map(_is_plain, visitors.iterate(expression))):
        return expression
    try:
        typed: Any = visitors.replacement_traverse(expression, {}, _typed)
        sql = str(typed.compile(dialect=_dialect, compile_kwargs={"literal_binds": True}))
    except (CompileError, NotImplementedError):
        return expression
    return literal_column(f"({sql})", expression.type)


def _is_plain(element: Any) -> bool:
    if isinstance(element, BindParameter):
        given = element.value if isinstance(element.value, list | tuple) else [element.value]
        return element.callable is None and all(isinstance(one, _PLAIN) for one in given)
    if isinstance(element, FunctionElement):
        return True  # though SQLAlchemy takes it for a kind of table
    return not isinstance(element, FromClause | SelectBase)  # by itself it would be correlated with nothing


def _typed(element: Any, **_: Any) -> ColumnElement[Any] | None:
    """Text that stands alone is of no type to PostgreSQL, and many functions refuse that."""
    if isinstance(element, BindParameter) and isinstance(element.value, str):
        return cast(element, element.type)
    return None
