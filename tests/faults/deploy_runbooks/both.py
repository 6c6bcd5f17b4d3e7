"""Two runbooks of the deploy hook that find something to do even in an empty database."""

import uuid

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane import Chunk, Cursor, Impact, Runbook, register


class Declared(Runbook):
    """Counts one row and changes none."""

    capability, confirmation_phrase, on_deploy = "platform.runbooks.test.deploy", "GO", True

    async def preflight(self, session: AsyncSession, tenants: Select[uuid.UUID]) -> Impact:
        return Impact(affected=1, total=1, tenants=1)

    async def apply(self, session: AsyncSession, tenant: uuid.UUID, cursor: Cursor | None, limit: int) -> Chunk:
        return Chunk(updated=0, cursor=None)


@register
class First(Declared):
    key, title = "test.deploy.first", "First"


@register
class Second(Declared):
    key, title = "test.deploy.second", "Second"
