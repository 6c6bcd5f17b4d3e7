"""What every process needs before it can do anything: settings, servers, runbooks, connections."""

import gc
import getpass
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from opsplane import embedded, logs, migrate
from opsplane.config import Settings
from opsplane.db import Database
from opsplane.errors import ServiceUnavailable
from opsplane.queue import Queue
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane


@contextmanager
def servers(settings: Settings) -> Iterator[Settings]:
    """The settings with both addresses known: as configured, else of the embedded servers, started if need be."""
    if settings.database_url and settings.redis_url:
        yield settings
        return
    wanted = {"postgres": settings.database_url is None, "valkey": settings.redis_url is None}
    with embedded.running(settings.home, **wanted) as endpoints:
        yield settings.model_copy(
            update={
                "database_url": settings.database_url or endpoints.database_url,
                "redis_url": settings.redis_url or endpoints.redis_url,
            }
        )


@asynccontextmanager
async def opened(
    settings: Settings,
    *,
    application: str = "opsplane",
    statement_timeout_s: int | None = None,
    looks_up: bool = False,
) -> AsyncIterator[Plane]:
    """Load the runbooks and open the connections of one process; closes them at the end."""
    logs.configure(settings)
    registry.load(settings.runbooks_dir)
    db = Database(settings, application=application, statement_timeout_s=statement_timeout_s, looks_up=looks_up)
    plane = Plane(db, Queue(settings), settings)
    try:
        yield plane
    finally:
        await plane.queue.close()
        await plane.db.close()


async def require_schema(plane: Plane) -> None:
    """Refuse to work on a database of another release.

    Raises:
        ServiceUnavailable: it is unreachable, or not migrated.
    """
    if not await migrate.is_current(plane.db):
        raise ServiceUnavailable(
            "The database does not have this release's schema; run `opsplane migrate`.", service="database"
        )


def freeze() -> None:
    """Keep what there is by now out of the collector's full rounds, of which each stopped the process for 150 ms."""
    gc.collect()
    gc.freeze()


def os_user() -> str:
    """Who is at the shell; containers often run under a number without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
