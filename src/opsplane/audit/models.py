"""Rows of audit events and of the chain that seals them."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, LargeBinary, func
from sqlalchemy.orm import Mapped, mapped_column

from opsplane.db import Base, new_id


class AuditEvent(Base):
    """One thing that happened; rows are only ever added, and a trigger sees to it."""

    __tablename__ = "audit_events"
    __table_args__ = (
        Index("ix_audit_events_occurred_at_id", "occurred_at", "id"),
        Index("ix_audit_events_action_occurred_at", "action", "occurred_at", "id"),
        Index("ix_audit_events_subject", "subject_type", "subject_id"),
        Index(
            "ix_audit_events_tenant_id_occurred_at", "tenant_id", "occurred_at", "id",
            postgresql_where="tenant_id IS NOT NULL",
        ),
        Index("ix_audit_events_break_glass", "occurred_at", "id", postgresql_where="break_glass_id IS NOT NULL"),
    )  # fmt: skip

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    occurred_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    action: Mapped[str]
    plane: Mapped[str]
    actor_kind: Mapped[str]
    actor_id: Mapped[uuid.UUID | None]
    actor_display: Mapped[str]
    token_id: Mapped[uuid.UUID | None]
    source: Mapped[str | None]
    workspace_id: Mapped[uuid.UUID | None]
    tenant_id: Mapped[uuid.UUID | None]
    subject_type: Mapped[str]
    subject_id: Mapped[str | None]
    reason_code: Mapped[str | None]
    reason_text: Mapped[str | None]
    break_glass_id: Mapped[uuid.UUID | None]
    details: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    signature: Mapped[bytes | None] = mapped_column(LargeBinary)  # none: from before there was a chain


class AuditPending(Base):
    """An event that waits for its seal; a trigger adds the row with the event."""

    __tablename__ = "audit_pending"

    event_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    rejected_at: Mapped[datetime | None]  # its signature is not ours, so it is never sealed


class AuditSeal(Base):
    """One link of the chain: its HMAC covers its number, the HMAC before it, and the whole event."""

    __tablename__ = "audit_seals"

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    event_id: Mapped[uuid.UUID] = mapped_column(unique=True)
    prev: Mapped[bytes] = mapped_column(LargeBinary)
    hmac: Mapped[bytes] = mapped_column(LargeBinary)
    sealed_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class AuditHead(Base):
    """The one row that says where the chain ends, so that a cut tail is missed."""

    __tablename__ = "audit_head"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seq: Mapped[int]
    hmac: Mapped[bytes] = mapped_column(LargeBinary)
    mac: Mapped[bytes] = mapped_column(LargeBinary)
    announced_at: Mapped[datetime | None]
