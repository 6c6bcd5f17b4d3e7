"""Run migrations on the connection that `opsplane.migrate` hands over, or on the configured database."""

import asyncio
from typing import Any

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from opsplane import config
from opsplane.db import VERSION_TABLE
from opsplane.models import metadata


def include_object(_object: Any, name: str | None, kind: str, _reflected: bool, _compare_to: Any) -> bool:
    """Leave the exclusion constraint's index alone: SQLAlchemy cannot describe it."""
    return not (kind == "index" and name == "one_active_run_per_scope")


def migrate(connection: Connection) -> None:
    """One transaction per migration, so that a long one does not hold the locks of the others."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        compare_type=True,
        transaction_per_migration=True,
        include_object=include_object,
    )
    with context.begin_transaction():
        context.run_migrations()


async def connect_and_migrate() -> None:
    """The way of the plain `alembic` command."""
    engine = create_async_engine(config.load().sqlalchemy_url)
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
        await connection.commit()
    await engine.dispose()


if handed := context.config.attributes.get("connection"):
    migrate(handed)
else:
    asyncio.run(connect_and_migrate())
