"""Whether what is sent to a destination arrives."""

import uuid
from datetime import datetime

from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.alerts.models import OPEN, AlertDelivery, AlertDestination, DeliveryStatus

delivery = AlertDelivery


class Health(BaseModel):
    """How a destination has fared; `failing` counts deliveries that were tried in vain and are tried again."""

    last_delivered_at: datetime | None = None
    failing: int = 0
    dead: int = 0
    last_error: str | None = None


async def of_all(session: AsyncSession) -> dict[uuid.UUID, Health]:
    """The health of every destination to which anything was sent."""
    failing = delivery.status.in_(OPEN) & delivery.last_error.is_not(None)
    rows = await session.execute(
        select(
            AlertDestination.id,
            func.max(delivery.delivered_at),
            func.count().filter(failing),
            func.count().filter(delivery.status == DeliveryStatus.DEAD),
            func.max(delivery.last_error).filter(failing),
        )
        .join(AlertDestination, AlertDestination.id == delivery.destination_id)
        .group_by(AlertDestination.id)
    )
    return {
        row[0]: Health(last_delivered_at=row[1], failing=row[2], dead=row[3], last_error=row[4]) for row in rows.all()
    }
