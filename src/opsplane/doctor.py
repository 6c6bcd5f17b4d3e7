"""What is wrong with this installation, and the next move."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sqlalchemy import func, select, text

from opsplane import migrate, runtime
from opsplane.audit import signing, spool
from opsplane.audit.models import AuditHead, AuditPending
from opsplane.config import Environment, Settings
from opsplane.errors import OpsplaneError
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane
from opsplane.runs import processes

OLDEST_POSTGRES = 140000
OWNS_AUDIT = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('audit_events')"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `detail` holds what is there, or the next move."""

    name: str
    ok: bool
    detail: str


async def examine(settings: Settings) -> list[Finding]:
    """Look at everything; one failed check does not stop the others."""
    async with runtime.opened(settings, application="opsplane-doctor") as plane:
        return [await _checked(name, check, plane) for name, check in CHECKS.items()]


async def _checked(name: str, check: Callable[[Plane], Awaitable[tuple[bool, str]]], plane: Plane) -> Finding:
    try:
        ok, detail = await check(plane)
    except OpsplaneError as error:
        ok, detail = False, error.message
    return Finding(name, ok, detail)


async def _configuration(plane: Plane) -> tuple[bool, str]:
    settings = plane.settings
    if settings.env is Environment.DEVELOPMENT:
        return True, "development; set OPSPLANE_ENV=production where customers' data is"
    return True, "production"


async def _database(plane: Plane) -> tuple[bool, str]:
    async with plane.db.reading() as session:
        number = int(await session.scalar(text("SHOW server_version_num")) or 0)
        version = await session.scalar(text("SHOW server_version"))
    return number >= OLDEST_POSTGRES, f"PostgreSQL {version}" + ("" if number >= OLDEST_POSTGRES else "; 14 is needed")


async def _schema(plane: Plane) -> tuple[bool, str]:
    current = await migrate.is_current(plane.db)
    return current, f"revision {migrate.head()}" if current else "not this release's; run `opsplane migrate`"


async def _extension(plane: Plane) -> tuple[bool, str]:
    async with plane.db.reading() as session:
        version = await session.scalar(text("SELECT extversion FROM pg_extension WHERE extname = 'btree_gist'"))
    return version is not None, f"btree_gist {version}" if version else "btree_gist is missing; run `opsplane migrate`"


async def _audit(plane: Plane) -> tuple[bool, str]:
    if not await migrate.is_current(plane.db):
        return False, "unknown until the schema is this release's; run `opsplane migrate`"
    async with plane.db.reading() as session:
        owns = await session.scalar(text(OWNS_AUDIT))
        waiting = await session.scalar(select(func.count()).select_from(AuditPending))
        head = await session.scalar(select(AuditHead))
    if head is not None and not signing.same(head.mac, signing.head(plane.settings, head.seq, head.hmac)):
        return False, "sealed with another key, or changed; see OPSPLANE_AUDIT_KEY, then `opsplane audit verify`"
    if spool.holds_any(plane.settings):
        return False, f"events wait in {spool.folder(plane.settings)}, because the database refuses them; see the log"
    if owns and plane.settings.env is Environment.PRODUCTION:
        return False, "the application owns the audit tables, so it could drop their triggers; migrate as another role"
    return True, f"only grows; {waiting} events wait for their seal"


async def _redis(plane: Plane) -> tuple[bool, str]:
    if await plane.queue.is_up():
        return True, "answers"
    return False, "does not answer; check OPSPLANE_REDIS_URL (runs go on without it, more slowly)"


async def _workers(plane: Plane) -> tuple[bool, str]:
    if not await migrate.is_current(plane.db):
        return False, "unknown until the schema is this release's; run `opsplane migrate`"
    async with plane.db.reading() as session:
        workers = await processes.live_workers(session)
    alive = f"{len(workers)} alive, {sum(worker.slots for worker in workers)} slots"
    return True, alive if workers else "none alive; runs wait until one is started with `opsplane worker`"


async def _runbooks(_plane: Plane) -> tuple[bool, str]:
    return True, ", ".join(runbook.key for runbook in registry.every())


CHECKS: dict[str, Callable[[Plane], Awaitable[tuple[bool, str]]]] = {
    "configuration": _configuration,
    "database": _database,
    "schema": _schema,
    "extension": _extension,
    "audit": _audit,
    "redis": _redis,
    "workers": _workers,
    "runbooks": _runbooks,
}
