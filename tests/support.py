"""What several tests do: make findings, start runs, work them off."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.auth.actors import Actor
from opsplane.db import new_id
from opsplane.findings.models import Finding
from opsplane.runbooks import service
from opsplane.runbooks.service import Plane, Source, Started, StartOrder
from opsplane.runs import leases, lifecycle, views
from opsplane.runs.drain import Drained, Drainer
from opsplane.runs.leases import Lease
from opsplane.runs.schemas import RunOut
from opsplane.tenants.models import Tenant

BACKFILL, PLAIN = "findings.lifecycle.backfill", "test.effects.plain"


async def add_findings(plane: Plane, tenant: Tenant, count: int, **values: Any) -> None:
    """Findings as they were written before the lifecycle existed."""
    row = {
        "workspace_id": tenant.workspace_id,
        "tenant_id": tenant.id,
        "external_ref": "R1",
        "title": "old",
        "severity": "high",
        "status": "new",
        **values,
    }
    async with plane.db.transaction() as tx:
        for start in range(0, count, 1000):
            batch = [{**row, "id": new_id(), "fingerprint": uuid.uuid4().hex} for _ in range(min(1000, count - start))]
            await tx.session.execute(insert(Finding), batch)


def order(runbook: str = BACKFILL, tenant: str | None = None, **values: Any) -> StartOrder:
    """An order that lacks nothing."""
    given: dict[str, Any] = {
        "runbook": runbook,
        "tenant": tenant,
        "source": Source.CLI,
        "reason": ("DATA_REPAIR", "a test"),
        "confirmation": "BACKFILL",
        **values,
    }
    return StartOrder(**given)


async def start(plane: Plane, operator: Actor, runbook: str = BACKFILL, **values: Any) -> Started:
    """Start a run."""
    return await service.start(plane, order(runbook, **values), by=operator)


async def begun(plane: Plane, operator: Actor, runbook: str = PLAIN) -> uuid.UUID:
    """A run under way, whose tenants wait to be claimed."""
    run = (await start(plane, operator, runbook)).run
    async with plane.db.transaction() as tx:
        await lifecycle.begin(tx.session, run.id)
    return run.id


async def claimed(session: AsyncSession, run_id: uuid.UUID, *, lease_s: float = 20) -> Lease:
    """The next tenant of a run, for a worker that nobody has heard of."""
    lease = await leases.claim(session, run_id, uuid.uuid4(), lease_s=lease_s)
    assert lease is not None
    return lease


async def finish(session: AsyncSession, lease: Lease) -> None:
    """End a tenant in whose last chunk nothing was wrong."""
    await leases.finish(session, [leases.Whole(lease, 0, 0)])


def drainer(plane: Plane) -> Drainer:
    """A worker's drains, without the worker."""
    return Drainer(plane.db, plane.settings, uuid.uuid4(), asyncio.Event(), plane.queue.hints)


@asynccontextmanager
async def durable(plane: Plane) -> AsyncIterator[None]:
    """New connections wait for the disk, as they do outside of tests."""
    async with plane.db.transaction() as tx:
        name = await tx.session.scalar(text("SELECT current_database()"))
        await tx.session.execute(text(f"ALTER DATABASE {name} SET synchronous_commit = on"))
    await plane.db.engine.dispose()
    try:
        yield
    finally:
        async with plane.db.transaction() as tx:
            await tx.session.execute(text(f"ALTER DATABASE {name} RESET synchronous_commit"))
        await plane.db.engine.dispose()


async def until_somebody_waits(plane: Plane) -> None:
    """Until a statement waits for a lock."""
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    async with asyncio.timeout(10):
        while True:
            async with plane.db.reading() as session:
                if await session.scalar(waiting):
                    return
            await asyncio.sleep(0.02)


async def drain(plane: Plane, run_id: uuid.UUID) -> Drained:
    """Work on a run until nothing is left."""
    return await drainer(plane).drain(run_id)


async def finished_run(plane: Plane, operator: Actor, runbook: str = BACKFILL, **values: Any) -> uuid.UUID:
    """Start a run and work on it until it has ended."""
    started = await start(plane, operator, runbook, **values)
    await drain(plane, started.run.id)
    return started.run.id


async def show(plane: Plane, run_id: uuid.UUID) -> RunOut:
    """The run as everybody sees it."""
    async with plane.db.reading() as session:
        return await views.show(session, run_id, base_url=plane.settings.base_url)


async def wrong_count(plane: Plane) -> int:
    """Wrong findings, counted by plain SQL that shares nothing with the runbook."""
    async with plane.db.reading() as session:
        return int(await session.scalar(text(PLAIN_SQL)) or 0)


async def count(plane: Plane, table: Any, *conditions: Any) -> int:
    """Rows of a table."""
    async with plane.db.reading() as session:
        return int(await session.scalar(select(func.count()).select_from(table).where(*conditions)) or 0)


PLAIN_SQL = """
    SELECT count(*) FROM findings JOIN tenants ON tenants.id = findings.tenant_id
    WHERE tenants.external_id <> 'platform' AND (
        status = 'acknowledged' OR first_seen_at IS NULL OR last_seen_at IS NULL
        OR times_seen IS NULL OR times_seen < 1
        OR (status IN ('new', 'triaged', 'in_progress', 'reopened', 'acknowledged')
            AND (sla_days IS NULL OR due_at IS NULL))
        OR (status IN ('triaged', 'in_progress', 'acknowledged') AND triaged_at IS NULL)
        OR (status = 'resolved' AND resolved_at IS NULL)
        OR (status = 'closed' AND closed_at IS NULL))
"""
