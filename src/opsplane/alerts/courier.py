"""The courier: a loop in every worker and API process that delivers, and tries again until somebody has it.

A delivery is claimed, sent and marked in three steps, so that no transaction waits for a network. A
courier that dies in between leaves its claim to run out; the next one sends the same key again, which
is the one repeat that a receiver may see.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.alerts import destinations, messages, metrics
from opsplane.alerts.channels.base import SEND_S, Undelivered
from opsplane.alerts.models import OPEN, AlertDelivery, AlertDestination, DeliveryStatus
from opsplane.config import Settings
from opsplane.db import Database
from opsplane.errors import ServiceUnavailable
from opsplane.outbox import OutboxEvent

log = structlog.get_logger()

POLL_S = 1.0
AT_ONCE = 10
CLAIM = timedelta(seconds=60)  # longer than any sending
PATIENCE_S = (10, 30, 60, 120, 300, 600, 900)  # after the first failure, the second, …; then the last for ever
DEADLINE_S = SEND_S + 5
END_S = 3.0

delivery = AlertDelivery


@dataclass(frozen=True)
class Parcel:
    """A claimed delivery; `attempt` is its fence: a courier that was slow marks nothing."""

    delivery: AlertDelivery
    event: OutboxEvent
    destination: AlertDestination

    @property
    def attempt(self) -> int:
        """The how-manieth try this is."""
        return self.delivery.attempts


async def deliver_until(stop: asyncio.Event, db: Database, settings: Settings) -> None:
    """Deliver what is due, until `stop`; no failure ends the loop."""
    while not stop.is_set():
        try:
            delivered = await deliver(db, settings, stop)
        except ServiceUnavailable:
            delivered = 0  # the transaction has logged it
        except Exception:
            log.exception("courier_round_failed")
            delivered = 0
        if not delivered:
            await _wait(stop)


async def deliver(db: Database, settings: Settings, stop: asyncio.Event) -> int:
    """One round: for every destination the delivery that waited longest; how many were sent, taken or not.

    One each, so that a destination that hangs keeps no other waiting for longer than one sending.
    """
    async with db.transaction() as tx:
        await _give_up(tx.session)
        parcels = await _claim(tx.session)
    await asyncio.gather(*(_send(db, settings, parcel, stop) for parcel in parcels))
    return len(parcels)


async def _claim(session: AsyncSession) -> list[Parcel]:
    due = (delivery.status.in_(OPEN)) & (delivery.due_at <= func.clock_timestamp())
    first = (
        select(delivery.id)
        .join(AlertDestination, AlertDestination.id == delivery.destination_id)
        .where(due, AlertDestination.enabled)
        .ext(distinct_on(delivery.destination_id))
        .order_by(delivery.destination_id, delivery.due_at)
    )
    mine = select(delivery.id).where(delivery.id.in_(first), due).limit(AT_ONCE).with_for_update(skip_locked=True)
    claimed = await session.scalars(
        update(delivery)
        .where(delivery.id.in_(mine))
        .values(attempts=delivery.attempts + 1, due_at=func.clock_timestamp() + CLAIM)
        .returning(delivery)
    )
    return await _parcels(session, claimed.all())


async def _parcels(session: AsyncSession, claimed: Sequence[AlertDelivery]) -> list[Parcel]:
    rows = await session.execute(
        select(delivery, OutboxEvent, AlertDestination)
        .join(OutboxEvent, OutboxEvent.id == delivery.event_id)
        .join(AlertDestination, AlertDestination.id == delivery.destination_id)
        .where(delivery.id.in_([one.id for one in claimed]))
    )
    return [Parcel(*row) for row in rows.all()]


async def _send(db: Database, settings: Settings, parcel: Parcel, stop: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(DEADLINE_S) as limit, _hurried(limit, stop):
            await destinations.send(settings, parcel.destination, messages.of(parcel.event, settings.base_url))
    except Undelivered as error:
        await _put_off(db, parcel, error)
    except TimeoutError:
        await _put_off(db, parcel, Undelivered(f"it took longer than {DEADLINE_S:.0f} s, or opsplane was stopped"))
    except Exception as error:
        log.exception("alert_channel_broken", destination=parcel.destination.name)
        await _put_off(
            db, parcel, Undelivered(f"opsplane failed to send it ({type(error).__name__}); its log says why")
        )
    else:
        await _mark(db, parcel, status=DeliveryStatus.DELIVERED, delivered_at=func.clock_timestamp(), last_error=None)
        metrics.delivered(parcel.destination.kind, (datetime.now(UTC) - parcel.event.created_at).total_seconds())
        log.info("alert_delivered", destination=parcel.destination.name, kind=parcel.event.kind, try_=parcel.attempt)


@asynccontextmanager
async def _hurried(limit: asyncio.Timeout, stop: asyncio.Event) -> AsyncIterator[None]:
    """Once the process is to stop, what is being sent has `END_S` left."""

    async def hurry() -> None:
        await stop.wait()
        limit.reschedule(asyncio.get_running_loop().time() + END_S)

    task = asyncio.create_task(hurry())
    try:
        yield
    finally:
        task.cancel()


async def _put_off(db: Database, parcel: Parcel, error: Undelivered) -> None:
    wait_s = error.retry_after_s or patience_s(parcel.attempt)
    log.warning(
        "alert_not_delivered", destination=parcel.destination.name, reason=error.reason, again_in_s=round(wait_s)
    )
    metrics.failed(parcel.destination.kind)
    due_at = func.clock_timestamp() + timedelta(seconds=wait_s)
    await _mark(db, parcel, due_at=due_at, last_error=error.reason)


def patience_s(attempt: int) -> float:
    """Seconds until the next try after so many: 10 s at first, a quarter of an hour at last, ± 20 %."""
    base = PATIENCE_S[min(attempt, len(PATIENCE_S)) - 1]
    return base * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, guards nothing # nosec B311


async def _mark(db: Database, parcel: Parcel, **values: object) -> None:
    mine = (delivery.id == parcel.delivery.id) & (delivery.attempts == parcel.attempt) & delivery.status.in_(OPEN)
    async with db.transaction() as tx:
        await tx.session.execute(update(delivery).where(mine).values(**values))


async def _give_up(session: AsyncSession) -> None:
    """After a day of trying, or when the destination is gone, a delivery is dead until somebody sends it again."""
    gone = (delivery.destination_id.is_(None)) | (delivery.give_up_at <= func.clock_timestamp())
    kind = select(AlertDestination.kind).where(AlertDestination.id == delivery.destination_id).scalar_subquery()
    dead = await session.execute(
        update(delivery)
        .where(delivery.status.in_(OPEN), gone)
        .values(status=DeliveryStatus.DEAD)
        .returning(delivery.id, kind, delivery.destination_name, delivery.last_error)
    )
    for delivery_id, kind, name, error in dead.all():
        metrics.dead(kind or "unknown")
        log.error("alert_given_up", delivery=str(delivery_id), destination=name, last_error=error)


async def _wait(stop: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(stop.wait(), POLL_S * random.uniform(0.8, 1.2))  # noqa: S311 # nosec B311
    except TimeoutError:
        return
