"""Real servers for the whole session, a migrated database for each worker, clean tables for each test."""

import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from opsplane import embedded, migrate
from opsplane.audit import anchor, spool
from opsplane.auth.actors import Actor
from opsplane.config import Settings
from opsplane.db import Database
from opsplane.queue import Queue
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane
from opsplane.tenants import universe
from opsplane.tenants.models import Tenant

RUNBOOKS = Path(__file__).parent / "runbooks"
TABLES = (
    "operation_run_failures, operation_run_items, operation_runs, preflights, idempotency_keys, "
    "audit_events, audit_seals, audit_pending, audit_head, "
    "outbox, alert_deliveries, alert_destinations, notifications, "
    "findings, api_tokens, platform_user_capabilities, recovery_codes, break_glass, system_sessions, platform_users, "
    "memberships, admin_sessions, tenant_users, processes"
)
# As a migration makes it.
FIRST_RULE = """
    INSERT INTO alert_rules (id, name, events, min_severity)
    VALUES (gen_random_uuid(), 'Everything that needs somebody', ARRAY['operations.run.failed', 'run.stalled',
        'break_glass.started', 'break_glass.ended', 'audit.degraded'], 'info')
"""


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OPSPLANE_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.Endpoints]:
    """PostgreSQL and Valkey of this test process alone."""
    home = tmp_path_factory.mktemp("home")
    with embedded.running(home, durable=False) as endpoints:
        yield endpoints


@pytest.fixture(scope="session")
async def new_database(servers: embedded.Endpoints) -> Callable[[], Awaitable[str]]:
    """Make an empty database; returns its URL."""
    assert servers.database_url is not None
    url = servers.database_url

    async def create() -> str:
        name = f"test_{uuid.uuid4().hex[:12]}"
        connection = await asyncpg.connect(url)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        return url.replace("/opsplane?", f"/{name}?")

    return create


@pytest.fixture(scope="session")
async def settings(
    servers: embedded.Endpoints,
    new_database: Callable[[], Awaitable[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    """Settings of a migrated database; loops are quick so that tests need not wait."""
    settings = Settings(
        database_url=await new_database(),
        redis_url=servers.redis_url,
        secret_key=SecretStr("a key of the tests, of at least 32 characters"),
        home=tmp_path_factory.mktemp("opsplane"),
        runbooks_dir=RUNBOOKS,
        sweep_s=0.5,
        lease_s=2,
        chunk_min_rows=50,
        chunk_max_rows=500,
        requests_per_minute=1_000_000,
        base_url="http://ops.test",
    )
    await migrate.upgrade(settings)
    registry.load(RUNBOOKS)
    return settings


@pytest.fixture
async def plane(settings: Settings) -> AsyncIterator[Plane]:
    """A database, doorbell and settings over empty tables."""
    plane = Plane(Database(settings), Queue(settings), settings)
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("CREATE TABLE IF NOT EXISTS effects (tenant_id uuid NOT NULL, n int NOT NULL)"))
        await tx.session.execute(text("SET LOCAL session_replication_role = replica"))  # the audit only grows
        await tx.session.execute(text(f"TRUNCATE effects, {TABLES}"))
        await tx.session.execute(text("DELETE FROM alert_rules"))
        await tx.session.execute(text(FIRST_RULE))
        await tx.session.execute(text("DELETE FROM tenants WHERE external_id <> 'platform'"))
    (spool.folder(settings) / anchor.FILE).unlink(missing_ok=True)  # of the chain that was just emptied
    await plane.queue.redis.flushdb()
    yield plane
    await plane.queue.close()
    await plane.db.close()


@pytest.fixture
def operator() -> Actor:
    """Somebody at a shell, who may do everything."""
    return Actor.shell("tester")


@pytest.fixture
async def tenants(plane: Plane) -> list[Tenant]:
    """Three tenants: acme, globex, initech."""
    async with plane.db.transaction() as tx:
        workspace = await universe.workspace_id(tx.session)
        return [await universe.add(tx.session, workspace, name) for name in ("acme", "globex", "initech")]
