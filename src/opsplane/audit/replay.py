"""Bring spooled events back into the database, each once, and only those whose act was committed."""

import uuid
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.alerts.models import OutboxEvent
from opsplane.audit import log as audit
from opsplane.audit import metrics, spool
from opsplane.audit.models import AuditEvent
from opsplane.config import Settings
from opsplane.db import Database, first_line, is_unreachable, new_id

log = structlog.get_logger()

DEGRADED = "audit.degraded"
IN_PROGRESS, ABORTED, COMMITTED = "in progress", "aborted", "committed"
UUIDS = ("id", "actor_id", "token_id", "break_glass_id", "workspace_id", "tenant_id")


async def replay(db: Database, settings: Settings) -> int:
    """Store what this host has spooled; returns how many events."""
    if not spool.holds_any(settings):
        return 0
    async with db.transaction() as tx:
        await _announce(tx.session)
    stored = 0
    for lines, put_back in spool.taken(settings):
        async with db.transaction() as tx:
            for line in lines:
                outcome = await _outcome(tx.session, line.get("xid"))
                if outcome == IN_PROGRESS:
                    put_back.append(line)
                elif outcome == ABORTED:
                    log.info("audit_event_of_nothing", audit_event=line["event"])
                else:
                    stored += await _store(tx.session, settings, line, confirmed=outcome == COMMITTED)
    metrics.replayed.inc(stored)
    return stored


async def _announce(session: AsyncSession) -> None:
    """Tell the alert channels, once an hour, that events are or were in the spool."""
    hour = datetime.now(UTC).strftime("%Y-%m-%dT%H")
    payload = {"what": "Audit events were spooled, because the database refused them."}
    await session.execute(
        insert(OutboxEvent)
        .values(id=new_id(), kind=DEGRADED, dedupe_key=f"{DEGRADED}:{hour}", payload=payload)
        .on_conflict_do_nothing()
    )


async def _store(session: AsyncSession, settings: Settings, line: spool.Line, *, confirmed: bool) -> int:
    event: dict[str, Any] = line["event"]
    event |= {name: uuid.UUID(event[name]) for name in UUIDS if event[name] is not None}
    if not confirmed:
        event["details"] |= {"unconfirmed": True}
    row = audit.signed(settings, event) | {"occurred_at": datetime.fromisoformat(line["occurred_at"])}
    done = await session.scalar(insert(AuditEvent).values(row).on_conflict_do_nothing().returning(AuditEvent.id))
    return int(done is not None)


async def _outcome(session: AsyncSession, xid: str | None) -> str | None:
    """How the transaction of the act ended; None if the database does not remember it."""
    if xid is None:
        return None
    try:
        async with session.begin_nested():
            outcome: str | None = await session.scalar(
                text("SELECT pg_xact_status(CAST(CAST(:xid AS text) AS xid8))"), {"xid": xid}
            )
            return outcome
    except DBAPIError as error:
        if is_unreachable(error):
            raise
        log.warning("audit_transaction_unknown", xid=xid, error=first_line(error))  # a restored database
        return None
