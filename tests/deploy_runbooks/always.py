"""A runbook of the deploy hook that finds something to do even in an empty database."""

import uuid

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane import Chunk, Cursor, Impact, Runbook, register


@register
class Always(Runbook):
    key, title = "test.deploy.always", "Always"
    capability, confirmation_phrase, on_deploy = "platform.runbooks.test.always", "GO", True

    async def preflight(self, session: AsyncSession, tenants: Select[uuid.UUID]) -> Impact:
        return Impact(affected=1, total=1, tenants=1)

    async def apply(self, session: AsyncSession, tenant: uuid.UUID, cursor: Cursor | None, limit: int) -> Chunk:
        return Chunk(updated=0, cursor=None)
