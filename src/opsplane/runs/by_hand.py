"""Chunks by hand: a runbook's own code, in a transaction of one tenant or of several small ones."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property

from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.db import Database
from opsplane.runbooks.base import Runbook
from opsplane.runs import leases
from opsplane.runs.bundles import Bundle
from opsplane.runs.carried import Carried
from opsplane.runs.chunks import Pace
from opsplane.runs.leases import Lease, Whole
from opsplane.runs.repairing import Repairer


@dataclass(frozen=True, kw_only=True)
class ByHand:
    """A runbook at work: fence, rows, cursors and counts of a chunk commit together, or not at all."""

    db: Database
    runbook: Runbook
    pace: Pace
    stop: asyncio.Event
    lease_s: float

    @cached_property
    def repairer(self) -> Repairer:
        """Who calls its author's code."""
        return Repairer(self.runbook, self.lease_s)

    async def together(self, held: Sequence[Lease]) -> Carried:
        """One chunk for as many of them as fit.

        Raises:
            RunNotRunning: nothing was done.
            Culprit: a tenant failed.
            Unclear: some tenant failed.
        """
        async with self._chunk() as session:
            ours = await leases.fence_all(session, held)
            bundle = Bundle(self.repairer, self.pace, self.stop, waiting=list(ours))
            if ours:
                await bundle.fill(session)
        known = {lease.key for lease in ours}
        return Carried(
            whole=[one.lease for one in bundle.whole], unfinished=bundle.unfinished, waiting=bundle.waiting,
            lost=[lease for lease in held if lease.key not in known], updated=bundle.updated, took=bundle.took,
        )  # fmt: skip

    async def alone(self, lease: Lease, rows: int) -> Carried:
        """A chunk of this one.

        Raises:
            LeaseLost: it is another worker's.
            RunNotRunning: nothing was done.
            Exception: whatever the author's code raises.
        """
        async with self._chunk() as session:
            await leases.fence(session, lease)
            chunk = await self.repairer.apply(session, lease, lease.cursor, rows)
            carried = Carried(updated=chunk.updated, took=chunk.took)
            if await self.repairer.is_done(session, lease, chunk):
                await leases.finish(session, [Whole(lease, chunk.updated, chunk.errors)])
                carried.whole.append(lease)
            else:
                carried.unfinished.append(await self.repairer.store(session, lease, chunk))
        return carried

    @asynccontextmanager
    async def _chunk(self) -> AsyncIterator[AsyncSession]:
        async with self.db.transaction() as tx:
            if self.runbook.bundled:  # it acts nowhere else, where nothing could be forgotten
                await leases.do_not_wait_for_the_disk(tx.session)
            yield tx.session
