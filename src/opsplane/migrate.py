"""Bring the database to the schema this release needs; safe when many processes try at once."""

import functools

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from opsplane import data
from opsplane.config import Settings
from opsplane.db import VERSION_TABLE, Database, translate_unreachable
from opsplane.errors import ConfigurationError

# The one session-level advisory lock of opsplane: on a connection of its own, it dies with its process.
_LOCK = "hashtextextended('opsplane:migrate', 0)"


@functools.cache
def head() -> str:
    """The revision this release needs."""
    revision = ScriptDirectory.from_config(_alembic()).get_current_head()
    assert revision is not None
    return revision


async def upgrade(settings: Settings) -> bool:
    """Migrate to the head; True if this call did it, False if the database was there already.

    Raises:
        ServiceUnavailable: the database cannot be reached.
        ConfigurationError: the lock cannot be held, as behind a pooler in transaction mode.
    """
    engine = create_async_engine(settings.sqlalchemy_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with translate_unreachable(), engine.connect() as lock:
        if await current(lock) == head():
            return False
        await lock.execute(text(f"SELECT pg_advisory_lock({_LOCK})"))
        try:
            if await current(lock) == head():
                return False
            await _run_migrations(settings)
            return True
        finally:
            released = await lock.scalar(text(f"SELECT pg_advisory_unlock({_LOCK})"))
            await engine.dispose()
            if not released:
                raise ConfigurationError(
                    "The migration lock was lost: OPSPLANE_DATABASE_URL leads through a pooler; migrate directly."
                )


async def current(connection: AsyncConnection) -> str | None:
    """The database's revision; None when it is empty."""
    return await connection.run_sync(_revision)


async def is_current(db: Database) -> bool:
    """Whether the database has exactly the schema this release needs."""
    async with translate_unreachable(), db.engine.connect() as connection:
        return await current(connection) == head()


async def _run_migrations(settings: Settings) -> None:
    engine = create_async_engine(settings.sqlalchemy_url, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(_upgrade)
        await connection.commit()
    await engine.dispose()


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def _upgrade(connection: Connection) -> None:
    config = _alembic()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _alembic() -> Config:
    return Config(data.ROOT / "alembic.ini")
