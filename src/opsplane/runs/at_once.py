"""Chunks of a repair at once: what its author would be called for is in the statement, so one round trip does it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from itertools import takewhile
from typing import Any, TypeGuard, cast

from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.db import Database
from opsplane.direct import Begun, directly
from opsplane.lookups import Rows
from opsplane.runbooks.base import RepairRunbook, Runbook
from opsplane.runbooks.chunk import LOOK
from opsplane.runbooks.statements import TOGETHER
from opsplane.runs import leases, metrics
from opsplane.runs.bundles import blaming
from opsplane.runs.carried import Carried
from opsplane.runs.chunk_statements import ChunkStatements
from opsplane.runs.chunks import Pace
from opsplane.runs.leases import Lease, RunNotRunning, Whole
from opsplane.runs.states import ItemState
from opsplane.runs.troubles import MAX_PASSES, NotConverging

statements_of = cache(ChunkStatements)


def fits(runbook: Runbook) -> TypeGuard[RepairRunbook]:
    """Whether its chunks can be done at once."""
    return isinstance(runbook, RepairRunbook) and runbook.is_one_statement


def prepare(runbook: Runbook) -> None:
    """Put its statements together, if it is carried by such."""
    if fits(runbook):
        of_chunk = statements_of(runbook.statements)
        _ = of_chunk.first, of_chunk.following


@dataclass(frozen=True, kw_only=True)
class AtOnce:
    """A repair at work, of which each chunk is one statement and a transaction by itself."""

    db: Database
    runbook: RepairRunbook
    pace: Pace
    lease_s: float

    async def together(self, held: Sequence[Lease]) -> Carried:
        """One chunk for as many of them as fit.

        Raises:
            RunNotRunning: nothing was done.
            Culprit: a tenant failed.
            Unclear: some tenant failed.
        """
        most = TOGETHER if self.pace.together else 1
        first = list(takewhile(lambda lease: not lease.is_begun, held))[:most] or held[:1]
        with blaming(first):
            carried = await self._carry(first, self.pace.rows)
        return carried.with_waiting(held[len(first) :])

    async def alone(self, lease: Lease, rows: int) -> Carried:
        """A chunk of this one.

        Raises:
            RunNotRunning: nothing was done.
            NotConverging: it was gone over often enough, and still has wrong rows.
        """
        return await self._carry([lease], rows)

    async def _carry(self, held: Sequence[Lease], rows: int) -> Carried:
        if _is_in_doubt(held[0]) and (ended := await self._ended(held[0])) is not None:
            return ended
        async with self.db.bare(each_alone=True) as bare:
            told = await self._tell(bare, held, rows)
            if not all(row["goes_on"] for row in told):
                raise RunNotRunning
            carried = _carried(held, told)
            repaired = sum(lease.updated > 0 for lease in carried.whole)
            metrics.ended(bare, ItemState.SUCCEEDED, repaired)
            metrics.ended(bare, ItemState.SKIPPED, len(carried.whole) - repaired)
        return carried

    async def _ended(self, lease: Lease) -> Carried | None:
        """A tenant in doubt is done if nothing is wrong there; None if it must be gone over again."""
        async with self.db.bare() as bare:
            if not await leases.fence_all(bare, [lease]):
                return Carried(lost=[lease])
            if not await self.runbook.residue(cast(AsyncSession, bare), lease.tenant_id):
                await leases.finish(bare, [Whole(lease, 0, 0)])
                return Carried(whole=[lease])
        if lease.passes >= MAX_PASSES:
            raise NotConverging
        return None

    async def _tell(self, session: Begun, held: Sequence[Lease], limit: int) -> Rows:
        wanted, cursor = statements_of(self.runbook.statements), held[0].cursor
        given: dict[str, Any] = leases.parameters(held) | {
            "limit": limit, "window": limit * LOOK, "lease": timedelta(seconds=self.lease_s),
        }  # fmt: skip
        if cursor is None:
            return await directly(session, wanted.first, unsure=False, **given)
        after = self.runbook.statements.decode(cursor["after"])
        return await directly(session, wanted.following, unsure="unsure" in cursor, after=after, **given)


def _is_in_doubt(lease: Lease) -> bool:
    """Whether it was gone through, and that did not prove that nothing is wrong there any more."""
    return lease.cursor is None and lease.passes > 0


def _carried(held: Sequence[Lease], told: Rows) -> Carried:
    rows = {row["nr"]: row for row in told}
    done = Carried(updated=sum(row["updated"] or 0 for row in told))
    if told:
        done.took = max(told[0]["found"], (told[0]["looked_at"] or 0) // LOOK)
    for nr, lease in enumerate(held, 1):
        row = rows.get(nr)
        if row is None:
            done.lost.append(lease)
        elif row["done"] is None:
            done.waiting.append(lease)
        else:
            (done.whole if row["done"] else done.unfinished).append(_as_stored(lease, row))
    return done


def _as_stored(lease: Lease, row: Any) -> Lease:
    return replace(
        lease, cursor=row["cursor"], updated=lease.updated + row["updated"], passes=row["passes"],
        attempts=max(lease.attempts - 1, 0), losses=0, progress_at=row["progress_at"],
    )  # fmt: skip
