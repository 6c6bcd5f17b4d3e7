"""Runbooks whose repair is to leave marks: append-only, numbered, and wrong for ever if they are made twice."""

import asyncio
import os
import uuid

from sqlalchemy import Select, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane import Chunk, Cursor, Impact, Runbook, register

ROWS = 20
LONG_ROWS = 800
CHUNK = 4
# Of the newest run (its id may come from a clock that is wrong), whatever state the item is in: what is written too late must be seen, not left out.
MARK = text("""
    INSERT INTO effects (run_id, item_key, lease_token, leased_by, item_state, n, worker_pid, backend_pid)
    SELECT item.run_id, item.item_key, item.lease_token, item.leased_by, item.state, n, :worker, pg_backend_pid()
    FROM (
        SELECT items.* FROM operation_run_items items JOIN operation_runs runs ON runs.id = items.run_id
        WHERE items.tenant_id = :tenant AND runs.type = :key ORDER BY runs.created_at DESC LIMIT 1
    ) item, generate_series(CAST(:first AS int), CAST(:last AS int)) n
""")


class Marks(Runbook):
    """Leaves ROWS marks a tenant, CHUNK at a time, and dwells in every transaction: asleep and in the database."""

    title = "Marks"
    capability = "platform.runbooks.test.marks"
    rows = ROWS
    confirmation_phrase = "BACKFILL"

    async def preflight(self, session: AsyncSession, tenants: Select[uuid.UUID]) -> Impact:
        count = await session.scalar(select(func.count()).select_from(tenants.subquery())) or 0
        return Impact(affected=count * self.rows, total=count * self.rows, tenants=count)

    async def apply(self, session: AsyncSession, tenant: uuid.UUID, cursor: Cursor | None, limit: int) -> Chunk:
        first = cursor["next"] if cursor else 0
        last = min(first + min(CHUNK, limit), self.rows)
        await asyncio.sleep(0.1)
        values = {"tenant": tenant, "key": self.key, "first": first, "last": last - 1, "worker": os.getpid()}
        await session.execute(MARK, values)
        await session.execute(text("SELECT pg_sleep(0.1)"))
        await asyncio.sleep(0.15)
        return Chunk(updated=last - first, cursor={"next": last} if last < self.rows else None)


@register
class OfAll(Marks):
    key, lock_group = "test.marks.all", "test.marks"


@register
class OfAllToo(Marks):
    key, lock_group = "test.marks.same", "test.marks"  # the same scope under another name


@register
class OfOne(Marks):
    key = "test.marks.one"


@register
class Long(Marks):
    key, rows = "test.marks.long", LONG_ROWS
