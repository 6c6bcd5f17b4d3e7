"""The courier: a loop in every worker and API process that delivers, and tries again until somebody has it.

A delivery is claimed, sent and marked in three steps, so that no transaction waits for a network. A
courier that dies in between leaves its claim to run out; the next one sends the same key again, which
is the one repeat that a receiver may see. Every destination has a task of its own while something is
due there: one that hangs keeps no other waiting.
"""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import ColumnElement, case, func, select, update
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
CLAIM = timedelta(seconds=60)  # longer than any sending
PATIENCE_S = (10, 30, 60, 120, 300, 600, 900)  # after the first failure, the second, …; then the last for ever
DEADLINE_S = SEND_S + 5
END_S = 3.0
MARK_TRIES = 10

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
    tasks: dict[uuid.UUID, asyncio.Task[None]] = {}
    while not stop.is_set():
        tasks = {place: task for place, task in tasks.items() if not task.done()}
        for place in await _quietly_due(db):
            if place not in tasks:
                tasks[place] = asyncio.create_task(_empty(db, settings, place, stop))
        await _wait(stop)
    await asyncio.gather(*tasks.values())


async def deliver(db: Database, settings: Settings, stop: asyncio.Event) -> int:
    """Send the oldest that is due to each destination, all at once; how many that were, taken or not."""
    sent = await asyncio.gather(*(_next(db, settings, place, stop) for place in await due_places(db)))
    return sum(taken is not None for taken in sent)


async def due_places(db: Database) -> Sequence[uuid.UUID]:
    """The destinations to which something is to be sent now."""
    waiting = select(delivery.id).where(delivery.destination_id == AlertDestination.id, _due())
    async with db.reading() as session:
        places = await session.scalars(select(AlertDestination.id).where(AlertDestination.enabled, waiting.exists()))
        return places.all()


async def _quietly_due(db: Database) -> Sequence[uuid.UUID]:
    try:
        return await due_places(db)
    except ServiceUnavailable:
        return ()  # the database has logged it
    except Exception:
        log.exception("courier_round_failed")
        return ()


async def _empty(db: Database, settings: Settings, place: uuid.UUID, stop: asyncio.Event) -> None:
    """Send what is due to a destination, one after the other, until it is all sent or one is not taken."""
    try:
        while not stop.is_set() and await _next(db, settings, place, stop):
            continue
    except ServiceUnavailable:
        return
    except Exception:
        log.exception("courier_failed", destination=str(place))


async def _next(db: Database, settings: Settings, place: uuid.UUID, stop: asyncio.Event) -> bool | None:
    """Whether the next delivery to a destination was taken; None if there is none."""
    async with db.transaction() as tx:
        parcel = await _claim(tx.session, place)
    if parcel is None:
        return None
    return await _send(db, settings, parcel, stop)


def _due() -> ColumnElement[bool]:
    return delivery.status.in_(OPEN) & (delivery.due_at <= func.clock_timestamp())


async def _claim(session: AsyncSession, place: uuid.UUID) -> Parcel | None:
    first = (
        select(delivery.id)
        .where(delivery.destination_id == place, _due())
        .order_by(delivery.due_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    claimed = await session.scalar(
        update(delivery)
        .where(delivery.id.in_(first))
        .values(status=DeliveryStatus.PENDING, attempts=delivery.attempts + 1, due_at=func.clock_timestamp() + CLAIM)
        .returning(delivery.id)
    )
    row = (
        await session.execute(
            select(delivery, OutboxEvent, AlertDestination)
            .join(OutboxEvent, OutboxEvent.id == delivery.event_id)
            .join(AlertDestination, AlertDestination.id == delivery.destination_id)
            .where(delivery.id == claimed)
        )
    ).first()
    return None if row is None else Parcel(*row)


async def _send(db: Database, settings: Settings, parcel: Parcel, stop: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(DEADLINE_S) as limit, _hurried(limit, stop):
            await destinations.send(settings, parcel.destination, messages.of(parcel.event, settings.base_url))
    except Undelivered as error:
        refusal = error
    except TimeoutError:
        refusal = Undelivered(f"it took longer than {DEADLINE_S:.0f} s, or opsplane was stopped")
    except Exception as error:
        log.exception("alert_channel_broken", destination=parcel.destination.name)
        refusal = Undelivered(f"opsplane failed to send it ({type(error).__name__}); its log says why")
    else:
        await _take_down(db, parcel)
        return True
    await _put_off(db, parcel, refusal)
    return False


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


async def _take_down(db: Database, parcel: Parcel) -> None:
    """Mark it delivered, if need be when the database is back: what is not marked is sent once more."""
    now = func.clock_timestamp()
    for again in range(MARK_TRIES):
        try:
            mine = await _mark(db, parcel, status=DeliveryStatus.DELIVERED, delivered_at=now, last_error=None)
        except ServiceUnavailable:
            await asyncio.sleep(again)
        else:
            break
    else:
        log.error("alert_delivery_not_marked", delivery=str(parcel.delivery.id))
        return
    if mine:
        metrics.delivered(parcel.destination.kind, (datetime.now(UTC) - parcel.event.created_at).total_seconds())
        log.info("alert_delivered", destination=parcel.destination.name, kind=parcel.event.kind, try_=parcel.attempt)


async def _put_off(db: Database, parcel: Parcel, error: Undelivered) -> None:
    """Try again later; after a day of trying it is dead, until somebody sends it again by hand."""
    wait_s = error.retry_after_s or patience_s(parcel.attempt)
    now = func.clock_timestamp()
    status = case((delivery.give_up_at <= now, DeliveryStatus.DEAD), else_=DeliveryStatus.PENDING)
    mine = await _mark(db, parcel, status=status, due_at=now + timedelta(seconds=wait_s), last_error=error.reason)
    name, reason = parcel.destination.name, error.reason
    if mine is DeliveryStatus.DEAD:
        metrics.dead(parcel.destination.kind)
        log.error("alert_given_up", delivery=str(parcel.delivery.id), destination=name, reason=reason)
    elif mine is not None:
        metrics.failed(parcel.destination.kind)
        log.warning("alert_not_delivered", destination=name, reason=reason, again_in_s=round(wait_s))


def patience_s(attempt: int) -> float:
    """Seconds until the next try after so many: 10 s at first, a quarter of an hour at last, ± 20 %."""
    base = PATIENCE_S[min(attempt, len(PATIENCE_S)) - 1]
    return base * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, guards nothing # nosec B311


async def _mark(db: Database, parcel: Parcel, **values: object) -> DeliveryStatus | None:
    """What became of it; None if it was somebody else's meanwhile."""
    mine = (delivery.id == parcel.delivery.id) & (delivery.attempts == parcel.attempt) & delivery.status.in_(OPEN)
    async with db.transaction() as tx:
        status = await tx.session.scalar(update(delivery).where(mine).values(**values).returning(delivery.status))
    return None if status is None else DeliveryStatus(status)


async def _wait(stop: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(stop.wait(), POLL_S * random.uniform(0.8, 1.2))  # noqa: S311 # nosec B311
    except TimeoutError:
        return
