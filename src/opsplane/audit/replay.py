"""Bring spooled events back into the database, each once, and only those whose act was committed."""

import json
import uuid
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.audit import alarm, metrics, signing, spool
from opsplane.audit import log as audit
from opsplane.audit.models import AuditEvent
from opsplane.audit.spool import Batch, Line
from opsplane.config import Settings
from opsplane.db import Database, first_line, is_unreachable

log = structlog.get_logger()

COMMITTED = "committed"  # of pg_xact_status, which also says "in progress" and "aborted"
UUIDS = ("id", "actor_id", "token_id", "break_glass_id", "workspace_id", "tenant_id")
AT_ONCE = 200  # lines in one transaction


async def attempt(db: Database, settings: Settings) -> None:
    """Replay, tell what is to be told, and leave for later what the database still refuses."""
    try:
        await alarm.raise_due(db)
        await replay(db, settings)
    except Exception:
        log.exception("audit_spool_not_replayed")


async def replay(db: Database, settings: Settings) -> int:
    """Store what this host has spooled; returns how many events."""
    if not spool.holds_any(settings):
        return 0
    async with db.transaction() as tx:
        await alarm.raise_alarm(tx.session, "spooled", "Audit events were spooled, because the database refused them.")
    stored = 0
    for batch in spool.taken(settings):
        for start in range(0, len(batch.lines), AT_ONCE):
            async with db.transaction() as tx:
                for line in batch.lines[start : start + AT_ONCE]:
                    stored += await _bring_back(tx.session, settings, line, batch)
    metrics.replayed.inc(stored)
    return stored


async def _bring_back(session: AsyncSession, settings: Settings, line: Line, batch: Batch) -> int:
    if not _is_ours(settings, line):
        log.error("audit_spool_line_not_ours", line=line)
        batch.put_aside.append(json.dumps(line))
        return 0
    match await _outcome(session, line.get("xid")):
        case "in progress":
            batch.put_back.append(line)
        case "aborted":
            log.info("audit_event_of_nothing", audit_event=line["event"])
        case outcome:
            return await _store(session, settings, line, confirmed=outcome == COMMITTED)
    return 0


def _is_ours(settings: Settings, line: object) -> bool:
    return isinstance(line, dict) and "mac" in line and line["mac"] == signing.spooled(settings, line)["mac"]


async def _store(session: AsyncSession, settings: Settings, line: Line, *, confirmed: bool) -> int:
    event: dict[str, Any] = line["event"]
    event |= {name: uuid.UUID(event[name]) for name in UUIDS if event[name] is not None}
    if not confirmed:
        event["details"] |= {"unconfirmed": True}
    at = {"occurred_at": datetime.fromisoformat(line["occurred_at"])}
    try:
        async with session.begin_nested():
            return await _insert(session, audit.signed(settings, event) | at)
    except DBAPIError as error:
        if is_unreachable(error):
            raise
        return await _insert(session, audit.signed(settings, audit.short(event, first_line(error))) | at)


async def _insert(session: AsyncSession, row: dict[str, Any]) -> int:
    done = await session.scalar(insert(AuditEvent).values(row).on_conflict_do_nothing().returning(AuditEvent.id))
    return int(done is not None)


async def _outcome(session: AsyncSession, xid: str | None) -> str | None:
    """How the transaction of the act ended; None if the database does not remember it."""
    if xid is None:
        return None
    try:
        async with session.begin_nested():
            status = text("SELECT pg_xact_status(CAST(CAST(:xid AS text) AS xid8))")
            outcome: str | None = await session.scalar(status, {"xid": xid})
            return outcome
    except DBAPIError as error:
        if is_unreachable(error):
            raise
        log.warning("audit_transaction_unknown", xid=xid, error=first_line(error))  # a restored database
        return None
