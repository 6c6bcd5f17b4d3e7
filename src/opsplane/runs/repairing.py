"""One chunk of a runbook within somebody's transaction: repair, look whether the tenant is done, note how far it is."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.runbooks.base import Runbook
from opsplane.runbooks.chunk import Chunk, Cursor
from opsplane.runs import leases
from opsplane.runs.leases import Lease
from opsplane.runs.troubles import MAX_PASSES, NotConverging, authored


@dataclass(frozen=True)
class Repairer:
    """A runbook at work; whatever its author's code raises comes out as it is."""

    runbook: Runbook
    lease_s: float

    async def apply(self, session: AsyncSession, lease: Lease, cursor: Cursor | None, limit: int) -> Chunk:
        """The tenant's next chunk behind the cursor."""
        with authored():
            return await self.runbook.apply(session, lease.tenant_id, cursor, limit)

    async def apply_together(self, session: AsyncSession, held: Sequence[Lease], limit: int) -> Sequence[Chunk]:
        """The first chunks of some of them, from the first one on.

        Raises:
            RuntimeError: the author's answer is not what was asked for; taken as it is, rows would go uncounted.
        """
        with authored():
            tenants = [lease.tenant_id for lease in held]
            chunks = await self.runbook.apply_together(session, tenants, limit)
        cut_off = any(chunk.cursor is not None for chunk in chunks[:-1])
        if not 0 < len(chunks) <= len(held) or cut_off:
            raise RuntimeError(f"apply_together of {self.runbook.key} must finish all tenants it begins but the last.")
        return chunks

    @property
    def shares_statements(self) -> bool:
        """Whether several tenants are repaired by one statement, so that nobody knows which one broke it."""
        return type(self.runbook).apply_together is not Runbook.apply_together

    async def is_done(self, session: AsyncSession, lease: Lease, chunk: Chunk) -> bool:
        """Whether nothing is left to repair after this chunk.

        Raises:
            NotConverging: the tenant was gone over often enough, and still has wrong rows.
        """
        if chunk.cursor is not None:
            return False
        found_nothing = lease.cursor is None and chunk.took == 0
        if chunk.proven or found_nothing:
            return True
        with authored():
            if not await self.runbook.residue(session, lease.tenant_id):
                return True
        if lease.passes + 1 >= MAX_PASSES:
            raise NotConverging
        return False

    async def store(self, session: AsyncSession, lease: Lease, chunk: Chunk) -> Lease:
        """Note what the chunk did, and where the next one goes on: at the first row again, if it has no cursor."""
        return await leases.store(
            session, lease, cursor=chunk.cursor, updated=chunk.updated, errors=chunk.errors,
            passes=lease.passes + (chunk.cursor is None), lease_s=self.lease_s,
        )  # fmt: skip
