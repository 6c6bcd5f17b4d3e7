"""What is wrong with this installation, and the next move."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from opsplane import mailing, migrate, runtime
from opsplane.alerts import destinations, health, rules
from opsplane.alerts.health import Health
from opsplane.alerts.models import AlertDestination
from opsplane.alerts.rules import RuleOut
from opsplane.audit import signing, spool
from opsplane.audit.models import AuditHead, AuditPending
from opsplane.config import Environment, Settings
from opsplane.db import first_line
from opsplane.errors import OpsplaneError
from opsplane.outbox import Kind
from opsplane.runbooks import indexes, registry
from opsplane.runbooks.base import RepairRunbook
from opsplane.runbooks.indexes import Advice
from opsplane.runbooks.service import Plane
from opsplane.runs import processes
from opsplane.runs.throttling import checkup

OLDEST_POSTGRES = 140000
UNMIGRATED = "unknown until the schema is this release's; run `opsplane migrate`"
MAIL_S = 5.0
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
        return False, UNMIGRATED
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
        return False, UNMIGRATED
    async with plane.db.reading() as session:
        workers = await processes.live_workers(session)
    alive = f"{len(workers)} alive, {sum(worker.slots for worker in workers)} slots"
    return True, alive if workers else "none alive; runs wait until one is started with `opsplane worker`"


async def _throttle(plane: Plane) -> tuple[bool, str]:
    well, said = await checkup.examine(plane.db, plane.settings)
    return well, said + await checkup.slowed_down(plane.db) if await migrate.is_current(plane.db) else said


async def _alerts(plane: Plane) -> tuple[bool, str]:
    if not await migrate.is_current(plane.db):
        return False, UNMIGRATED
    async with plane.db.reading() as session:
        found, healths = await destinations.every(session), await health.of_all(session)
        ruled = [rule for rule in await rules.every(session) if rule.enabled and Kind.RUN_FAILED in rule.events]
    if not any(one.enabled for one in found):
        hint = "opsplane alerts destinations add teams NAME" if not found else "every destination is switched off"
        return True, f"nobody is told when a run fails; {hint}"
    trouble = [said for one in found if (said := _trouble(one, healths.get(one.id, Health())))]
    if trouble:
        return False, f"{'; '.join(trouble)}. See `opsplane alerts deliveries list`"
    told = [one.name for one in found if one.enabled and any(_names(rule, one) for rule in ruled)]
    if not told:
        return True, "no rule sends failed runs anywhere; `opsplane alerts rules list` says what they do"
    return True, f"failed runs go to {', '.join(told)}"


def _names(rule: RuleOut, destination: AlertDestination) -> bool:
    return not rule.destination_ids or destination.id in rule.destination_ids


def _trouble(destination: AlertDestination, how: Health) -> str:
    failing = f"{how.failing} tried in vain, and tried again ({how.last_error})" if how.failing else ""
    parts = [part for part in (f"{how.dead} given up" if how.dead else "", failing) if part]
    return f"{destination.name}: {', '.join(parts)}" if parts else ""


async def _mail(plane: Plane) -> tuple[bool, str]:
    server = plane.settings.mail_server
    if server is not None:
        return await _handed_in(server)
    async with plane.db.reading() as session:
        wanted = await migrate.is_current(plane.db) and any(
            one.kind == "email" for one in await destinations.every(session)
        )
    if wanted:
        return False, "alerts are to go by mail, but there is no server; set OPSPLANE_SMTP_URL and OPSPLANE_MAIL_FROM"
    return True, "no server; alerts by mail need OPSPLANE_SMTP_URL and OPSPLANE_MAIL_FROM"


async def _handed_in(server: mailing.Server) -> tuple[bool, str]:
    where = f"{server.host}:{server.port}"
    try:
        async with asyncio.timeout(MAIL_S):
            _reader, writer = await asyncio.open_connection(server.host, server.port)
    except (OSError, TimeoutError):
        return False, f"{where} cannot be reached; check host and port in OPSPLANE_SMTP_URL, and firewalls on the way"
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True, f"{where} can be reached"


async def _runbooks(_plane: Plane) -> tuple[bool, str]:
    return True, ", ".join(runbook.key for runbook in registry.every())


async def _indexes(plane: Plane) -> tuple[bool, str]:
    if not await migrate.is_current(plane.db):
        return False, UNMIGRATED
    repairs = [runbook for runbook in registry.every() if isinstance(runbook, RepairRunbook)]
    advice = [found for one in repairs if (found := await _advice(plane, one)) is not None]
    if not advice:
        return True, "every table that a runbook repairs is small, or has an index that fits"
    return all(one.well for one in advice), "\n".join(one.said for one in advice)


async def _advice(plane: Plane, runbook: RepairRunbook) -> Advice | None:
    try:
        async with plane.db.reading() as session:
            return await indexes.advice(session, runbook.key, runbook.index(), runbook.rows())
    except DBAPIError as error:  # a table or a column of the application is missing, or not ours to read
        return Advice(False, f"{runbook.key}: its preflight cannot work: {first_line(error)}")


CHECKS: dict[str, Callable[[Plane], Awaitable[tuple[bool, str]]]] = {
    "configuration": _configuration,
    "database": _database,
    "schema": _schema,
    "extension": _extension,
    "audit": _audit,
    "redis": _redis,
    "workers": _workers,
    "throttle": _throttle,
    "alerts": _alerts,
    "mail": _mail,
    "runbooks": _runbooks,
    "indexes": _indexes,
}
