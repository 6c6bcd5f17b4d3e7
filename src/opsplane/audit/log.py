"""Write audit events; a failing audit never breaks the act it records, and is never silent."""

import uuid
from collections.abc import Mapping
from typing import Any

import structlog
from sqlalchemy import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.audit.models import AuditEvent
from opsplane.auth.actors import Actor
from opsplane.db import first_line, is_unreachable

log = structlog.get_logger()


async def record(
    session: AsyncSession,
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
) -> None:
    """Add one event to the caller's transaction, so that it is there exactly if the act is."""
    event = {
        "action": action,
        "plane": plane,
        "actor_kind": by.kind,
        "actor_id": by.id,
        "actor_display": by.display,
        "token_id": by.token_id,
        "break_glass_id": by.break_glass_id,
        "subject_type": subject_type,
        "subject_id": None if subject_id is None else str(subject_id),
        "workspace_id": workspace_id,
        "tenant_id": tenant_id,
        "source": source,
        "reason_code": reason_code,
        "reason_text": reason_text,
        "details": dict(details or {}),
    }
    try:
        async with session.begin_nested():
            await session.execute(insert(AuditEvent).values(event))
    except DBAPIError as error:
        if is_unreachable(error):
            raise  # the act itself cannot be committed either
        log.exception("audit_event_not_stored", audit_event=event, error=first_line(error))
