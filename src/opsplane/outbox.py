"""The outbox: what must reach somebody, written in the transaction that causes it and routed later."""

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Index, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from opsplane.db import Base, new_id


class Kind(StrEnum):
    """What an event is about."""

    RUN_FAILED = "operations.run.failed"
    RUN_SUCCEEDED = "operations.run.succeeded"
    RUN_STALLED = "run.stalled"
    BREAK_GLASS_STARTED = "break_glass.started"
    BREAK_GLASS_ENDED = "break_glass.ended"
    AUDIT_DEGRADED = "audit.degraded"
    TEST = "alerts.test"


class Severity(StrEnum):
    """How much an event matters, from least to most."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class OutboxEvent(Base):
    """One event to route; `dedupe_key` makes writing it twice harmless."""

    __tablename__ = "outbox"
    __table_args__ = (Index("ix_outbox_unrouted", "id", postgresql_where="routed_at IS NULL"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    kind: Mapped[str]
    severity: Mapped[str] = mapped_column(server_default=Severity.CRITICAL)
    dedupe_key: Mapped[str] = mapped_column(unique=True)
    payload: Mapped[dict[str, Any]]
    routed_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


async def emit(session: AsyncSession, kind: Kind, about: object, severity: Severity, payload: dict[str, Any]) -> bool:
    """Put an event into the outbox once for each `about`; False if it is there already.

    The payload leaves the company: counts, scopes and names of ours, but nothing of what customers stored.
    """
    written = await session.scalar(
        insert(OutboxEvent)
        .values(id=new_id(), kind=kind, severity=severity, dedupe_key=f"{about}:{kind}", payload=payload)
        .on_conflict_do_nothing()
        .returning(OutboxEvent.id)
    )
    return written is not None
