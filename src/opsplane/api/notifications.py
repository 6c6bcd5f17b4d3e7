"""The bell: what the signed-in operator was told."""

import uuid
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from opsplane.access.operators import SessionRequired
from opsplane.alerts import messages, notifications
from opsplane.alerts.models import Notification
from opsplane.api import problems
from opsplane.api.deps import ThePlane, encode_cursor, id_before
from opsplane.api.queries import Listed
from opsplane.api.rights import AnEnrolledPerson
from opsplane.auth.tokens import InvalidToken
from opsplane.errors import InvalidInput, MissingCapability, NotFound, ServiceUnavailable
from opsplane.outbox import Kind, Severity

ALWAYS = (InvalidToken, SessionRequired, MissingCapability, ServiceUnavailable)

bell = APIRouter(prefix="/notifications")


class NotificationOut(BaseModel):
    """What became of a run that the operator started."""

    id: uuid.UUID
    kind: Kind
    severity: Severity
    title: str
    scope: str
    run_id: uuid.UUID
    view_url: str
    created_at: datetime
    read_at: datetime | None


class NotificationPage(BaseModel):
    """A page of the operator's own notifications, newest first."""

    items: list[NotificationOut]
    unread: Annotated[int, Field(description="How many are unread, on this page or not.")]
    next_cursor: str | None


class NotificationNotFound(NotFound):
    """The operator was told nothing of this id."""

    code = "notification_not_found"

    def __init__(self) -> None:
        super().__init__("You have no such notification.")


@bell.get("", responses=problems.responses(*ALWAYS, InvalidInput))
async def list_notifications(
    who: AnEnrolledPerson, plane: ThePlane, query: Annotated[Listed, Query()]
) -> NotificationPage:
    """What I was told, newest first."""
    before = id_before(query.cursor)
    async with plane.db.reading() as session:
        found = await notifications.newest(session, who.user.id, before=before, limit=query.limit + 1)
        unread = await notifications.unread(session, who.user.id)
    items = [_shown(one, plane.settings.base_url) for one in found[: query.limit]]
    more = len(found) > query.limit
    return NotificationPage(items=items, unread=unread, next_cursor=encode_cursor(items[-1].id) if more else None)


@bell.post("/read", status_code=204, responses=problems.responses(*ALWAYS))
async def read_all(who: AnEnrolledPerson, plane: ThePlane) -> None:
    """Mark all of mine as read."""
    async with plane.db.transaction() as tx:
        await notifications.mark_read(tx.session, who.user.id)


@bell.post("/{notification_id}/read", status_code=204, responses=problems.responses(*ALWAYS, NotificationNotFound))
async def read_one(notification_id: uuid.UUID, who: AnEnrolledPerson, plane: ThePlane) -> None:
    """Mark one of mine as read; twice is once."""
    async with plane.db.transaction() as tx:
        if not await notifications.mark_read(tx.session, who.user.id, notification_id):
            raise NotificationNotFound


def _shown(told: Notification, base_url: str) -> NotificationOut:
    kind = Kind(told.kind)
    tenant = told.payload.get("tenant")
    return NotificationOut(
        id=told.id,
        kind=kind,
        severity=Severity(told.severity),
        title=messages.title(kind, told.payload),
        scope="All tenants" if tenant is None else f"Tenant {tenant}",
        run_id=told.run_id,
        view_url=f"{base_url}/system/ops/runs/{told.run_id}",
        created_at=told.created_at,
        read_at=told.read_at,
    )
