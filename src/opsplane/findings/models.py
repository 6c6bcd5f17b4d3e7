"""Rows of findings: what a scanner saw in a tenant's systems, and how far its repair is."""

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from opsplane.db import Base, new_id


class Severity(StrEnum):
    """How bad it is, the worst first."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFORMATIONAL = "informational"


class FindingStatus(StrEnum):
    """How far somebody is with it; `acknowledged` is the old word for triaged."""

    NEW = "new"
    TRIAGED = "triaged"
    IN_PROGRESS = "in_progress"
    REOPENED = "reopened"
    RESOLVED = "resolved"
    CLOSED = "closed"
    ACKNOWLEDGED = "acknowledged"


SLA_DAYS = dict(zip(map(str, Severity), (3, 7, 14, 30, 90), strict=True))
SEVERITIES = tuple(SLA_DAYS)
STATUSES = tuple(map(str, FindingStatus))


class Finding(Base):
    """One finding of one tenant; rows older than the lifecycle lack some of its fields."""

    __tablename__ = "findings"
    __table_args__ = (
        CheckConstraint(f"severity IN {SEVERITIES}", name="severity"),
        CheckConstraint(f"status IN {STATUSES}", name="status"),
        Index("ix_findings_tenant_id_id", "tenant_id", "id"),
        Index("uq_findings_tenant_id_fingerprint", "tenant_id", "fingerprint", unique=True),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    workspace_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("workspaces.id"))
    tenant_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("tenants.id"))
    external_ref: Mapped[str]
    title: Mapped[str]
    severity: Mapped[str]
    status: Mapped[str]
    fingerprint: Mapped[str]
    evidence: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    first_seen_at: Mapped[datetime | None]
    last_seen_at: Mapped[datetime | None]
    times_seen: Mapped[int | None]
    sla_days: Mapped[int | None]
    due_at: Mapped[datetime | None]
    triaged_at: Mapped[datetime | None]
    resolved_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime | None]
