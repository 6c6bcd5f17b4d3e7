"""Bring the database to the schema this release needs; safe when many processes try at once."""

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from opsplane import connections, data
from opsplane.config import Settings
from opsplane.db import VERSION_TABLE, Database, translate_unreachable

# One process at a time; held by a transaction of its own, for each migration has one.
_TURN = "hashtextextended('opsplane:migrate', 0)"
# One transaction at a time: that of a process that was killed may still be about to commit.
_STEP = "hashtextextended('opsplane:migrate:step', 0)"
TURN_S = 0.3


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
    """
    async with translate_unreachable(), _engine(settings) as engine:
        while True:
            async with engine.connect() as turn:
                if await current(turn) == head():
                    return False
                # Not waited for inside of PostgreSQL: that would keep a pooler's connection from whoever works.
                if await turn.scalar(text(f"SELECT pg_try_advisory_xact_lock({_TURN})")):
                    return await _upgrade_unless_done(engine, turn)
            await asyncio.sleep(TURN_S)


async def _upgrade_unless_done(engine: AsyncEngine, turn: AsyncConnection) -> bool:
    if await current(turn) == head():
        return False
    async with engine.connect() as connection:
        event.listen(connection.sync_connection, "begin", _take_step)
        await connection.run_sync(_upgrade)
        await connection.commit()
    return True


async def current(connection: AsyncConnection) -> str | None:
    """The database's revision; None when it is empty."""
    return await connection.run_sync(_revision)


async def is_current(db: Database) -> bool:
    """Whether the database has exactly the schema this release needs."""
    async with translate_unreachable(), db.engine.connect() as connection:
        return await current(connection) == head()


@asynccontextmanager
async def _engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    engine = connections.migrating(settings)
    try:
        yield engine
    finally:
        await engine.dispose()


def _take_step(connection: Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_STEP})")


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def _upgrade(connection: Connection) -> None:
    config = _alembic()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _alembic() -> Config:
    return Config(data.ROOT / "alembic.ini")
