"""For authors: prove that a runbook repairs, repairs nothing twice, keeps to its tenant and survives a kill.

A pytest plugin (`pytest_plugins = ["opsplane.testing"]`); it needs pytest and pytest-asyncio (`opsplane[testing]`).
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import pytest_asyncio
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane import embedded, migrate, runtime
from opsplane.auth.actors import Actor
from opsplane.config import Settings
from opsplane.db import new_id
from opsplane.runbooks import service
from opsplane.runbooks.base import Runbook
from opsplane.runbooks.service import Plane, Source, StartOrder
from opsplane.runs import items, leases, lifecycle, views
from opsplane.runs.drain import Drainer
from opsplane.runs.models import OperationRunItem
from opsplane.runs.schemas import RunOut
from opsplane.tenants import universe
from opsplane.tenants.models import Tenant

Seed = Callable[[AsyncSession, Tenant], Awaitable[int]]


async def assert_repairs(plane: Plane, runbook: type[Runbook], *, seed: Seed) -> None:
    """Run `runbook` on rows that `seed` makes wrong (it returns how many) and check its promises.

    A run of one tenant changes exactly its rows and none of another tenant's; a worker that vanishes
    in the middle costs nothing; a second run changes 0 rows.
    """
    async with plane.db.transaction() as tx:
        workspace = await universe.workspace_id(tx.session)
        mine, other = [
            await universe.add(tx.session, workspace, f"{name}-{uuid.uuid4().hex[:8]}") for name in ("mine", "other")
        ]
        expected, untouched = await seed(tx.session, mine), await seed(tx.session, other)
    assert expected > 0, "seed made no row wrong"

    run = await run_once(plane, runbook, mine, lose_a_worker=True)
    assert run.outcome == "succeeded", run.failures
    assert run.context.updated_count == expected, f"{run.context.updated_count} rows changed, {expected} were wrong"

    again = await run_once(plane, runbook, mine)
    assert again.context.updated_count == 0, f"a second run changed {again.context.updated_count} rows"

    rest = await run_once(plane, runbook, other)
    assert rest.context.updated_count == untouched, "the first run changed rows of another tenant"


async def run_once(plane: Plane, runbook: type[Runbook], tenant: Tenant, *, lose_a_worker: bool = False) -> RunOut:
    """Start a run of one tenant and work it off here; returns it completed."""
    order = StartOrder(runbook=runbook.key, tenant=tenant.external_id, source=Source.CLI, force=True)
    run = (await service.start(plane, order, by=Actor.shell("author"))).run
    if lose_a_worker:
        await _claim_and_vanish(plane, runbook, run.id)
    await Drainer(plane.db, plane.settings, new_id(), asyncio.Event(), plane.queue.hints).drain(run.id)
    async with plane.db.reading() as session:
        return await views.show(session, run.id, base_url=plane.settings.base_url)


class _WorkerGone(Exception):
    """Rolls a chunk back, as a killed worker's connection does."""


async def _claim_and_vanish(plane: Plane, runbook: type[Runbook], run_id: uuid.UUID) -> None:
    """Claim the run's item, do one chunk that never commits, and let the lease run out."""
    async with plane.db.transaction() as tx:
        await lifecycle.begin(tx.session, run_id)
        lease = await leases.claim(tx.session, run_id, new_id(), lease_s=0)
    assert lease is not None
    with contextlib.suppress(_WorkerGone):
        async with plane.db.transaction() as tx:
            await leases.fence(tx.session, lease)
            await runbook().apply(tx.session, lease.tenant_id, None, plane.settings.chunk_min_rows)
            raise _WorkerGone
    async with plane.db.transaction() as tx:
        await items.free_expired(tx.session)
        state = await tx.session.scalar(select(OperationRunItem.state).where(OperationRunItem.run_id == run_id))
    assert state == "pending", state


@pytest.fixture(scope="session")
def opsplane_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of an embedded PostgreSQL and Valkey with opsplane's schema, for this test session alone."""
    with embedded.running(tmp_path_factory.mktemp("opsplane"), durable=False) as endpoints:
        settings = Settings(database_url=endpoints.database_url, redis_url=endpoints.redis_url)
        asyncio.run(migrate.upgrade(settings))
        yield settings


@pytest_asyncio.fixture
async def opsplane_plane(opsplane_settings: Settings) -> AsyncIterator[Plane]:
    """What `assert_repairs` needs; your own tables are yours to create."""
    async with runtime.opened(opsplane_settings) as plane:
        yield plane
