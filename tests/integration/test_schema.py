"""The migrations make exactly what the models say."""

import asyncio
from collections.abc import Awaitable, Callable

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from opsplane import migrate, models
from opsplane.config import Settings
from opsplane.runbooks.service import Plane


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    tables = {table.name for table in models.metadata.sorted_tables}
    found = compare_metadata(context, models.metadata)
    return [
        change
        for change in found
        if "tenant_span" not in repr(change) and repr(tables) and "effects" not in repr(change)
    ]


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
