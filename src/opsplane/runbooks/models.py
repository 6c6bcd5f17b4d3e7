"""Rows of preflights and idempotency keys."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Double, ForeignKey, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from opsplane.db import Base, new_id
from opsplane.runbooks.impact import Impact


class Preflight(Base):
    """The read-only look at a scope; one run may be started from it, by the one who looked."""

    __tablename__ = "preflights"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    workspace_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("workspaces.id"))
    runbook: Mapped[str]
    runbook_version: Mapped[int]
    scope_kind: Mapped[str]
    tenant_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("tenants.id"))
    retry_of_run_id: Mapped[uuid.UUID | None]  # only the tenants that failed in that run
    principal: Mapped[str]
    affected_count: Mapped[int]
    total_count: Mapped[int]
    estimated_tenants: Mapped[int]
    total_estimated: Mapped[bool] = mapped_column(server_default="false")
    margin_percent: Mapped[float | None] = mapped_column(Double)
    computed_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]

    @property
    def impact(self) -> Impact:
        """What was seen."""
        return Impact(
            affected=self.affected_count,
            total=self.total_count,
            tenants=self.estimated_tenants,
            total_estimated=self.total_estimated,
            margin_percent=self.margin_percent,
        )


class IdempotencyKey(Base):
    """The answer to a start, kept so that a repeated request gets it again."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"),)

    principal: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    run_id: Mapped[uuid.UUID | None]
    response: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # not jsonb: keeps the order
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
