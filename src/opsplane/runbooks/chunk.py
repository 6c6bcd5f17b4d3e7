"""What one chunk did to one tenant, and how that is read from what PostgreSQL answered."""

from collections.abc import Callable, Iterator
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
    """Of one of a repair's `Statements`, over so many tenants, with this limit."""

    rows: Rows
    tenants: int
    limit: int

    def chunks(self, encode: Callable[[Any], Any]) -> list[Chunk]:
        """Of every tenant that it has got to; only the last one may have more to do."""
        return list(self._chunks(encode))

    def _chunks(self, encode: Callable[[Any], Any]) -> Iterator[Chunk]:
        of_all = self.rows[0]
        whole = of_all["found"] < self.limit and of_all["looked_at"] < self.limit * LOOK
        of_tenants = {row["tenant_nr"]: (row["tenant_found"], row["updated"], row["still"]) for row in self.rows}
        looked_in_vain = max(0, (of_all["looked_at"] or 0) // LOOK - of_all["found"])
        last = self.tenants if whole else of_all["nr"]
        for nr in range(1, last + 1):
            wrong, updated, still = of_tenants.get(nr, (0, 0, 0))
            unsure = still > 0 or updated < wrong
            effort = wrong + (looked_in_vain if nr == last else 0)
            if nr == last and not whole:
                yield Chunk(
                    updated=updated, effort=effort, cursor={"after": encode(of_all["key"])} | (UNSURE if unsure else {})
                )  # fmt: skip
            else:
                yield Chunk(updated=updated, effort=effort, cursor=None, proven=not unsure)
