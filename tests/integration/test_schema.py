"""The migrations make exactly what the models say."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from opsplane import migrate, models
from opsplane.config import Settings
from opsplane.db import VERSION_TABLE
from opsplane.runbooks.service import Plane


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "version_table": VERSION_TABLE})
    ours = (change for change in compare_metadata(context, models.metadata) if "effects" not in repr(change))
    return [change for change in ours if "tenant_span" not in repr(change)]


@pytest.mark.filterwarnings("ignore:Did not recognize type 'uuidrange'")
async def test_migrations_and_models_agree(plane: Plane) -> None:
    async with plane.db.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_many_migrations_at_once_migrate_once(
    settings: Settings, new_database: Callable[[], Awaitable[str]]
) -> None:
    fresh = settings.model_copy(update={"database_url": await new_database()})
    done = await asyncio.gather(*(migrate.upgrade(fresh) for _ in range(6)))
    assert sorted(done) == [False] * 5 + [True]


async def test_the_default_workspace_and_the_platform_tenant_are_there(plane: Plane) -> None:
    async with plane.db.reading() as session:
        found = await session.execute(
            text("SELECT slug, external_id FROM tenants JOIN workspaces ON workspaces.id = workspace_id")
        )
        assert [tuple(row) for row in found] == [("default", "platform")]


async def test_the_database_itself_refuses_overlapping_active_runs(plane: Plane) -> None:
    async with plane.db.reading() as session:
        definition = await session.scalar(
            text("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'one_active_run_per_scope'")
        )
    assert definition is not None
    assert "tenant_span WITH &&" in definition
    assert "status <> 'completed'" in definition
