"""Deliveries as people see them, and sending one again by hand."""

import uuid
from datetime import datetime

from pydantic import BaseModel
from sqlalchemy import Row, Select, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.alerts import messages
from opsplane.alerts.models import AlertDelivery, AlertDestination, AlertRule, DeliveryStatus
from opsplane.alerts.routing import KEEP_TRYING
from opsplane.audit import log as audit
from opsplane.auth.actors import Actor
from opsplane.errors import Conflict, NotFound
from opsplane.outbox import Kind, OutboxEvent, Severity

AGAIN = (DeliveryStatus.DEAD, DeliveryStatus.SUPPRESSED, DeliveryStatus.HELD)

delivery = AlertDelivery


class DeliveryNotFound(NotFound):
    """There is no such delivery."""

    code = "delivery_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such delivery; they are kept for 90 days.")


class NotToResend(Conflict):
    """The delivery is on its way, has arrived, or has nowhere to go any more."""

    code = "not_to_resend"

    def __init__(self, status: str) -> None:
        super().__init__(f"This delivery is {status}; only one that is dead, suppressed or held can be sent by hand.")


class DeliveryOut(BaseModel):
    """One event on its way to one destination."""

    id: uuid.UUID
    event_id: uuid.UUID
    event: Kind
    severity: Severity
    title: str
    view_url: str
    destination_id: uuid.UUID | None
    destination: str
    rule: str | None
    status: DeliveryStatus
    attempts: int
    last_error: str | None
    due_at: datetime | None
    delivered_at: datetime | None
    created_at: datetime
    can_resend: bool


async def page(
    session: AsyncSession,
    *,
    status: DeliveryStatus | None = None,
    destination_id: uuid.UUID | None = None,
    before: uuid.UUID | None = None,
    limit: int,
    base_url: str,
) -> list[DeliveryOut]:
    """Deliveries, newest first."""
    wanted = _rows().order_by(delivery.id.desc()).limit(limit)
    for column, value in ((delivery.status, status), (delivery.destination_id, destination_id)):
        if value is not None:
            wanted = wanted.where(column == value)
    if before is not None:
        wanted = wanted.where(delivery.id < before)
    return [_shown(row, base_url) for row in (await session.execute(wanted)).all()]


async def resend(session: AsyncSession, delivery_id: uuid.UUID, *, by: Actor, base_url: str) -> DeliveryOut:
    """Put a delivery that was given up, left out or held on its way; it has a day again.

    Raises:
        DeliveryNotFound: 404.
        NotToResend: 409.
    """
    found = await session.get(delivery, delivery_id, with_for_update=True)
    if found is None:
        raise DeliveryNotFound
    if found.status not in AGAIN:
        raise NotToResend(found.status)
    if await session.get(AlertDestination, found.destination_id) is None:
        raise NotToResend("without its destination, which was deleted")
    now = func.clock_timestamp()
    again = update(delivery).where(delivery.id == delivery_id)
    await session.execute(
        again.values(status=DeliveryStatus.PENDING, due_at=now, give_up_at=now + KEEP_TRYING, last_error=None)
    )
    await audit.record(
        session, "platform.alerts.delivery_resent", by=by, subject_type="alert_delivery", subject_id=delivery_id,
        details={"destination": found.destination_name, "was": found.status},
    )  # fmt: skip
    row = (await session.execute(_rows().where(delivery.id == delivery_id))).one()
    return _shown(row, base_url)


def _rows() -> Select[AlertDelivery, OutboxEvent, str, uuid.UUID]:
    return (
        select(delivery, OutboxEvent, AlertRule.name, AlertDestination.id)
        .join(OutboxEvent, OutboxEvent.id == delivery.event_id)
        .outerjoin(AlertRule, AlertRule.id == delivery.rule_id)
        .outerjoin(AlertDestination, AlertDestination.id == delivery.destination_id)
        .execution_options(populate_existing=True)
    )


def _shown(row: Row[AlertDelivery, OutboxEvent, str, uuid.UUID], base_url: str) -> DeliveryOut:
    found, event, rule, place = row
    message = messages.of(event, base_url)
    open_ = found.status in {DeliveryStatus.PENDING, DeliveryStatus.HELD}
    return DeliveryOut(
        id=found.id,
        event_id=event.id,
        event=message.kind,
        severity=message.severity,
        title=message.title,
        view_url=message.link,
        destination_id=place,
        destination=found.destination_name,
        rule=rule,
        status=DeliveryStatus(found.status),
        attempts=found.attempts,
        last_error=found.last_error,
        due_at=found.due_at if open_ else None,
        delivered_at=found.delivered_at,
        created_at=found.created_at,
        can_resend=found.status in AGAIN and place is not None,
    )
