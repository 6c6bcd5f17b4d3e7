"""Dropping alerts that are old enough for the audit alone."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.alerts.destinations import DELETED
from opsplane.alerts.models import OPEN, AlertDelivery, AlertDestination, DeliveryStatus, Notification
from opsplane.db import first_id_at
from opsplane.outbox import OutboxEvent

KEEP = timedelta(days=90)
BATCH = 1000


async def forget_old(session: AsyncSession) -> None:
    """Delete events, with their deliveries, and notifications of three months ago; a batch at a time."""
    await _give_up_without_destination(session)
    oldest = first_id_at(datetime.now(UTC) - KEEP)
    under_way = select(AlertDelivery.id).where(AlertDelivery.event_id == OutboxEvent.id, AlertDelivery.status.in_(OPEN))
    events = select(OutboxEvent.id).where(
        OutboxEvent.id < oldest, OutboxEvent.routed_at.is_not(None), ~under_way.exists()
    )
    told = select(Notification.id).where(Notification.id < oldest)
    await session.execute(delete(OutboxEvent).where(OutboxEvent.id.in_(events.limit(BATCH))))
    await session.execute(delete(Notification).where(Notification.id.in_(told.limit(BATCH))))


async def _give_up_without_destination(session: AsyncSession) -> None:
    """A delivery may be made in the very moment in which its destination is deleted."""
    place = select(AlertDestination.id).where(AlertDestination.id == AlertDelivery.destination_id)
    await session.execute(
        update(AlertDelivery)
        .where(AlertDelivery.status.in_(OPEN), ~place.exists())
        .values(status=DeliveryStatus.DEAD, last_error=DELETED)
    )
