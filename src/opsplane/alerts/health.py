"""Whether what is sent to a destination arrives."""

import uuid
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.alerts.models import OPEN, AlertDelivery, AlertDestination, DeliveryStatus
from opsplane.db import first_id_at

LOOK_BACK = timedelta(days=7)

delivery = AlertDelivery


class Health(BaseModel):
    """How a destination has fared this week: how many are tried again, and were given up since one arrived."""

    last_delivered_at: datetime | None = None
    failing: int = 0
    dead: int = 0
    last_error: str | None = None


async def of_all(session: AsyncSession) -> dict[uuid.UUID, Health]:
    """The health of every destination to which anything was sent of late."""
    delivered = delivery.status == DeliveryStatus.DELIVERED
    last = (
        select(delivery.destination_id, func.max(delivery.created_at).label("at"))
        .where(delivered, delivery.id >= first_id_at(datetime.now(UTC) - LOOK_BACK))
        .group_by(delivery.destination_id)
        .subquery()
    )
    since_last = last.c.at.is_(None) | (delivery.created_at > last.c.at)
    failing = delivery.status.in_(OPEN) & delivery.last_error.is_not(None)
    rows = await session.execute(
        select(
            AlertDestination.id,
            func.max(delivery.delivered_at),
            func.count().filter(failing),
            func.count().filter((delivery.status == DeliveryStatus.DEAD) & since_last),
            func.array_agg(aggregate_order_by(delivery.last_error, delivery.id.desc())).filter(failing)[1],
        )
        .join(AlertDestination, AlertDestination.id == delivery.destination_id)
        .outerjoin(last, last.c.destination_id == delivery.destination_id)
        .where(delivery.id >= first_id_at(datetime.now(UTC) - LOOK_BACK))
        .group_by(AlertDestination.id)
    )
    return {
        row[0]: Health(last_delivered_at=row[1], failing=row[2], dead=row[3], last_error=row[4]) for row in rows.all()
    }
