"""What people see of the record: pages of it, newest first, and all of it, oldest first."""

import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Row, Select, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.audit import signing
from opsplane.audit.models import AuditEvent, AuditSeal

EVENT = AuditEvent.__table__.columns
FETCH = 2000


class AuditActorOut(BaseModel):
    """Who did it."""

    kind: str
    id: uuid.UUID | None
    display: str
    token_id: uuid.UUID | None


class AuditEventOut(BaseModel):
    """One thing that happened; `seq` is its place in the chain, once it is sealed."""

    id: uuid.UUID
    seq: int | None
    occurred_at: datetime
    action: str
    plane: str
    actor: AuditActorOut
    source: str | None
    workspace_id: uuid.UUID | None
    tenant_id: uuid.UUID | None
    subject_type: str
    subject_id: str | None
    reason_code: str | None
    reason_text: str | None
    break_glass_id: uuid.UUID | None
    details: dict[str, Any]


def moment(written: datetime) -> datetime:
    """The same moment in UTC, as the database takes it; ValueError if that has no offset or lies outside of time."""
    if written.tzinfo is None:
        raise ValueError("a date and time needs its offset from UTC")
    try:
        return written.astimezone(UTC)
    except OverflowError:
        raise ValueError("this date lies outside of the years 1 to 9999") from None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which events; an action that ends in a dot is a prefix, an actor is part of a name."""

    action: str | None = None
    actor: str | None = None
    subject_type: str | None = None
    subject_id: str | None = None
    tenant_id: uuid.UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    break_glass: bool | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The same as SQL."""
        event = AuditEvent
        by: dict[str, Callable[[Any], ColumnElement[bool]]] = {
            "action": lambda action: (
                event.action.startswith(action, autoescape=True) if action.endswith(".") else event.action == action
            ),
            "actor": lambda actor: event.actor_display.icontains(actor, autoescape=True),
            "subject_type": lambda kind: event.subject_type == kind,
            "subject_id": lambda subject: event.subject_id == subject,
            "tenant_id": lambda tenant: event.tenant_id == tenant,
            "since": lambda since: event.occurred_at >= since,
            "until": lambda until: event.occurred_at < until,
            "break_glass": lambda marked: (
                event.break_glass_id.is_not(None) if marked else event.break_glass_id.is_(None)
            ),
        }
        return [make(value) for name, make in by.items() if (value := getattr(self, name)) is not None]


@dataclass(frozen=True)
class Position:
    """Where a page ends: ids alone do not order events that several processes wrote."""

    occurred_at: datetime
    id: uuid.UUID

    @classmethod
    def parse(cls, written: str) -> Self:
        """The position that `str` wrote; ValueError if it is none."""
        at, _, event_id = written.partition(" ")
        return cls(moment(datetime.fromisoformat(at)), uuid.UUID(event_id))

    @classmethod
    def of(cls, event: AuditEventOut) -> Self:
        """The position of the last event of a page."""
        return cls(event.occurred_at, event.id)

    def __str__(self) -> str:
        return f"{self.occurred_at.isoformat()} {self.id}"


async def page(session: AsyncSession, wanted: Wanted, *, after: Position | None, limit: int) -> list[AuditEventOut]:
    """Events, newest first."""
    events = _events(wanted).order_by(AuditEvent.occurred_at.desc(), AuditEvent.id.desc()).limit(limit)
    if after is not None:
        here = tuple_(AuditEvent.occurred_at, AuditEvent.id)
        events = events.where(here < tuple_(after.occurred_at, after.id))
    return [_present(row) for row in await session.execute(events)]


async def export(session: AsyncSession, wanted: Wanted) -> AsyncIterator[dict[str, Any]]:
    """Every event as JSON, oldest first, each with its seal; memory does not grow with the record."""
    events = _events(wanted).order_by(AuditEvent.occurred_at, AuditEvent.id)
    async for row in await session.stream(events, execution_options={"yield_per": FETCH}):
        yield {name: signing.plain(value) for name, value in row._asdict().items()}


def _events(wanted: Wanted) -> Select[*tuple[Any, ...]]:
    return (
        select(AuditSeal.seq, AuditSeal.hmac, *EVENT)
        .select_from(AuditEvent)
        .outerjoin(AuditSeal, AuditSeal.event_id == AuditEvent.id)
        .where(*wanted.conditions())
    )


def _present(row: Row[*tuple[Any, ...]]) -> AuditEventOut:
    actor = AuditActorOut(kind=row.actor_kind, id=row.actor_id, display=row.actor_display, token_id=row.token_id)
    return AuditEventOut.model_validate({**row._asdict(), "actor": actor})
