"""Rows of destinations, rules, deliveries and notifications."""

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, Text, UniqueConstraint, Uuid, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from opsplane.db import Base, new_id


class DeliveryStatus(StrEnum):
    """Where a delivery is: on its way (pending, held until quiet hours are over) or at its end."""

    PENDING = "pending"
    HELD = "held"
    DELIVERED = "delivered"
    SUPPRESSED = "suppressed"  # by the rule's cooldown
    DEAD = "dead"  # given up after a day


OPEN = (DeliveryStatus.PENDING, DeliveryStatus.HELD)


class AlertDestination(Base):
    """Where alerts can go; the address is encrypted, because those who know it can write there."""

    __tablename__ = "alert_destinations"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    address: Mapped[str]  # as people may see it
    target: Mapped[bytes] = mapped_column(LargeBinary)
    enabled: Mapped[bool] = mapped_column(server_default="true")
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class AlertRule(Base):
    """Which events go where; an empty filter lets everything through, and no destinations means all of them."""

    __tablename__ = "alert_rules"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(unique=True)
    enabled: Mapped[bool] = mapped_column(server_default="true")
    events: Mapped[list[str]] = mapped_column(ARRAY(Text))
    min_severity: Mapped[str]
    runbooks: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default="{}")
    scope: Mapped[str | None]
    tenants: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default="{}")  # external ids
    destination_ids: Mapped[list[uuid.UUID]] = mapped_column(ARRAY(Uuid()), server_default="{}")
    cooldown_s: Mapped[int] = mapped_column(server_default="0")
    quiet_from: Mapped[str | None]
    quiet_until: Mapped[str | None]
    quiet_zone: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class AlertDelivery(Base):
    """One event on its way to one destination, through all its attempts."""

    __tablename__ = "alert_deliveries"
    __table_args__ = (
        CheckConstraint(f"status IN {tuple(str(status) for status in DeliveryStatus)}", name="status"),
        UniqueConstraint("event_id", "destination_id"),
        Index("ix_alert_deliveries_due", "destination_id", "due_at", postgresql_where="status IN ('pending', 'held')"),
        Index("ix_alert_deliveries_cooldown_key_created_at", "cooldown_key", "created_at"),
        Index("ix_alert_deliveries_status_id", "status", "id"),
        Index("ix_alert_deliveries_destination_id_id", "destination_id", "id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    event_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("outbox.id", ondelete="CASCADE"))
    # No foreign keys: deleting a destination or a rule must not rewrite what was sent in three months.
    destination_id: Mapped[uuid.UUID]
    destination_name: Mapped[str]
    rule_id: Mapped[uuid.UUID]
    cooldown_key: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=DeliveryStatus.PENDING)
    attempts: Mapped[int] = mapped_column(server_default="0")
    last_error: Mapped[str | None]
    due_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    give_up_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Notification(Base):
    """Something a platform user is told in the app until they have read it."""

    __tablename__ = "notifications"
    __table_args__ = (
        UniqueConstraint("user_id", "run_id", "kind"),
        Index("ix_notifications_unread", "user_id", postgresql_where="read_at IS NULL"),
        Index("ix_notifications_user_id_id", "user_id", "id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("platform_users.id", ondelete="CASCADE"))
    run_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("operation_runs.id", ondelete="CASCADE"))
    kind: Mapped[str]
    severity: Mapped[str]
    payload: Mapped[dict[str, Any]]
    read_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
