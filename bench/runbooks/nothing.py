"""A runbook that finds nothing wrong in any tenant: what is left is the cost of tracking."""

import uuid

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane import Chunk, Cursor, Impact, Runbook, register


@register
class Nothing(Runbook):
    """Says that there is one row to repair, or no run could be started, and repairs none."""

    key, title, capability = "bench.nothing", "Nothing", "platform.runbooks.bench.nothing"
    confirmation_phrase = "NOTHING"

    async def preflight(self, session: AsyncSession, tenants: Select[uuid.UUID]) -> Impact:  # noqa: ARG002
        """One row, so that the run may start."""
        return Impact(affected=1, total=1, tenants=1)

    async def apply(
        self,
        session: AsyncSession,  # noqa: ARG002
        tenant: uuid.UUID,  # noqa: ARG002
        cursor: Cursor | None,  # noqa: ARG002
        limit: int,  # noqa: ARG002
    ) -> Chunk:
        """Done at once."""
        return Chunk(updated=0, cursor=None)
