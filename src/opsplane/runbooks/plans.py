"""What the planner thinks of a statement before it is run."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ClauseElement, Executable, Select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler


@dataclass(frozen=True)
class Plan:
    """The planner's cost, in its own units, the rows it expects, and the processes that would help."""

    statement: Select[Any]
    cost: float
    rows: int
    helpers: int


async def plan(session: AsyncSession, statement: Select[Any]) -> Plan:
    """Ask how a statement would be run; runs nothing."""
    (explained,) = (await session.execute(_Explain(statement))).one()
    root = (json.loads(explained) if isinstance(explained, str) else explained)[0]["Plan"]
    helpers = max((node.get("Workers Planned", 0) for node in _nodes(root)), default=0)
    return Plan(statement, float(root["Total Cost"]), int(root["Plan Rows"]), helpers)


def _nodes(root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield root
    for child in root.get("Plans", []):
        yield from _nodes(child)


class _Explain(Executable, ClauseElement):
    inherit_cache = False

    def __init__(self, statement: Select[Any]) -> None:
        self.statement = statement


@compiles(_Explain)
def _explain(element: _Explain, compiler: SQLCompiler, **options: Any) -> str:
    return f"EXPLAIN (FORMAT JSON) {compiler.process(element.statement, **options)}"
