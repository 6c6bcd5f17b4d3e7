"""Rows of the outbox."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import Index, func
from sqlalchemy.orm import Mapped, mapped_column

from opsplane.db import Base, new_id


class OutboxEvent(Base):
    """One event to deliver; `dedupe_key` makes writing it twice harmless."""

    __tablename__ = "outbox"
    __table_args__ = (Index("ix_outbox_unsent", "next_attempt_at", postgresql_where="sent_at IS NULL"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    kind: Mapped[str]
    dedupe_key: Mapped[str] = mapped_column(unique=True)
    payload: Mapped[dict[str, Any]]
    attempts: Mapped[int] = mapped_column(server_default="0")
    last_error: Mapped[str | None]
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())
    sent_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
