"""What one chunk did to one tenant, and how that is read from what PostgreSQL answered."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from opsplane.lookups import Rows

Cursor = dict[str, Any]

LOOK = 10  # rows that a chunk may look at, for each that it may change
UNSURE: Cursor = {"unsure": True}


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """What one chunk did; `cursor` is where the next one goes on (JSON), None when there is no next one.

    `effort` is the part of its limit that it took, from which the next limit follows; None means `updated`.
    `proven` says that `residue` need not be asked after it.
    """

    updated: int
    cursor: Cursor | None
    errors: int = 0
    effort: int | None = None
    proven: bool = False

    @property
    def took(self) -> int:
        """The part of its limit that it took."""
        return self.updated if self.effort is None else self.effort

    def then(self, later: "Chunk") -> "Chunk":
        """Both as one."""
        updated, errors = self.updated + later.updated, self.errors + later.errors
        return replace(later, updated=updated, errors=errors, effort=self.took + later.took)

    def knowing(self, cursor: Cursor) -> "Chunk":
        """The same, behind what this cursor says of the rows before it."""
        if "unsure" not in cursor:
            return self
        return replace(self, proven=False, cursor=None if self.cursor is None else self.cursor | UNSURE)


@dataclass(frozen=True)
class Answer:
    """Of one of a repair's `Statements` over one tenant, with this limit."""

    rows: Rows
    limit: int

    def chunk(self, encode: Callable[[Any], Any]) -> Chunk:
        """What it did."""
        seen, of_tenants = self.rows[0], {row["tenant_nr"]: row for row in self.rows}
        of_tenant = of_tenants.get(1, {"tenant_found": 0, "updated": 0, "still": 0})
        updated = of_tenant["updated"]
        unsure = of_tenant["still"] > 0 or updated < of_tenant["tenant_found"]
        effort = max(seen["found"], (seen["looked_at"] or 0) // LOOK)
        if seen["found"] < self.limit and seen["looked_at"] < self.limit * LOOK:
            return Chunk(updated=updated, effort=effort, cursor=None, proven=not unsure)
        cursor = {"after": encode(seen["key"])} | (UNSURE if unsure else {})
        return Chunk(updated=updated, effort=effort, cursor=cursor)
