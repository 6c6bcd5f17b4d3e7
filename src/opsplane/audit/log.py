"""Write audit events; a failing audit never breaks the act it records, and is never silent."""

import json
import uuid
from collections.abc import Mapping
from typing import Any

import structlog
from sqlalchemy import Text, cast, func, insert, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.audit import alarm, metrics, signing, spool
from opsplane.audit.models import AuditEvent
from opsplane.auth.actors import Actor
from opsplane.config import Settings
from opsplane.db import first_line, is_unreachable, new_id, savepoint
from opsplane.direct import Begun, directly
from opsplane.errors import ServiceUnavailable
from opsplane.lookups import Lookup

log = structlog.get_logger()

Event = dict[str, Any]
LONGEST_TEXT = 500
FIELDS = (
    "id", "action", "plane", "actor_kind", "actor_id", "actor_display", "token_id", "break_glass_id", "subject_type",
    "subject_id", "workspace_id", "tenant_id", "source", "reason_code", "reason_text", "details", "signature",
)  # fmt: skip
INSERT = Lookup.of(insert(AuditEvent).returning(AuditEvent.id), FIELDS)
CIRCUMSTANCES = Lookup.of(
    select(cast(func.pg_current_xact_id(), Text).label("xid"), func.clock_timestamp().label("now"))
)
LOST = "An audit event is in the log alone (audit_event_lost): neither the database nor the spool took it."


class AuditUnavailable(ServiceUnavailable):
    """Neither the database nor the spool takes the record of an act, so the act is not done."""

    code = "audit_unavailable"

    def __init__(self) -> None:
        super().__init__(
            "The act was not done, because no record of it could be kept: neither the database nor the folder "
            "OPSPLANE_AUDIT_SPOOL takes it. The log says more.",
            service="audit",
        )


async def record(
    session: Begun,
    action: str,
    *,
    by: Actor,
    subject_type: str,
    subject_id: object | None = None,
    plane: str = "system",
    workspace_id: uuid.UUID | None = None,
    tenant_id: uuid.UUID | None = None,
    source: str | None = None,
    reason_code: str | None = None,
    reason_text: str | None = None,
    details: Mapping[str, Any] | None = None,
    or_go_on: bool = False,
) -> None:
    """Add one event to the caller's transaction, so that it is there exactly if the act is.

    If the database refuses it, a short form of it; else a line in the spool, which a sweep
    brings back. `or_go_on` is for what must not stop even then: the work of a run.

    Raises:
        AuditUnavailable: nothing takes it (503).
    """
    event: Event = {
        "id": new_id(),
        "action": action,
        "plane": plane,
        "actor_kind": str(by.kind),
        "actor_id": by.id,
        "actor_display": by.display,
        "token_id": by.token_id,
        "break_glass_id": by.break_glass_id,
        "subject_type": subject_type,
        "subject_id": None if subject_id is None else str(subject_id),
        "workspace_id": workspace_id,
        "tenant_id": tenant_id,
        "source": None if source is None else str(source),
        "reason_code": reason_code,
        "reason_text": reason_text,
        "details": json.loads(json.dumps(dict(details or {}), default=str)),
    }
    settings: Settings = session.info["settings"]
    if isinstance(session, AsyncSession):
        await session.flush()  # what the caller has yet to write fails here, as the caller's, and not as the audit's
    refusal = await _stored(session, signed(settings, event))
    if refusal is None:
        return
    log.error("audit_event_refused", audit_event=event, error=refusal)
    if await _stored(session, signed(settings, short(event, refusal))) is None:
        metrics.shortened.inc()
        return
    await _spooled(session, settings, event, or_go_on=or_go_on)


def signed(settings: Settings, event: Event) -> Event:
    """The event with the signature that tells it from one inserted by somebody else."""
    return event | {"signature": signing.sign(settings, event)}


async def _stored(session: Begun, event: Event) -> str | None:
    """None if the database took it, else what it said."""
    try:
        async with savepoint(session):
            stored = await directly(session, INSERT, **event)
    except DBAPIError as error:
        if is_unreachable(error):
            raise  # the act itself cannot be committed either
        return first_line(error)
    return None if stored else "a trigger swallowed it"


def short(event: Event, refusal: str) -> Event:
    """The event without its details, every text cut and rid of what Postgres cannot hold."""
    cut = {name: _cleaned(value) if isinstance(value, str) else value for name, value in event.items()}
    return cut | {"details": {"shortened": _cleaned(refusal)}}


def _cleaned(written: str) -> str:
    return written.encode(errors="replace").decode().replace("\0", "�")[:LONGEST_TEXT]


async def _spooled(session: Begun, settings: Settings, event: Event, *, or_go_on: bool) -> None:
    try:
        await spool.append(settings, signing.spooled(settings, {"event": event, **await _circumstances(session)}))
    except OSError as error:
        metrics.lost.inc()
        log.critical("audit_event_lost", audit_event=event, error=repr(error))
        if not or_go_on:
            raise AuditUnavailable from error
        alarm.raise_later("lost", LOST)
        return
    metrics.spooled.inc()
    log.error("audit_event_spooled", action=event["action"], event_id=str(event["id"]))


async def _circumstances(session: Begun) -> dict[str, str]:
    """Which transaction the event belongs to, for it may yet be rolled back, and when it was."""
    [row] = await directly(session, CIRCUMSTANCES)
    return {"xid": row["xid"], "occurred_at": row["now"].isoformat()}
