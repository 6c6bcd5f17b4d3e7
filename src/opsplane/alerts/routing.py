"""Routing: every event becomes deliveries, one to each destination that a rule names for it."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.alerts import matching, quiet_hours
from opsplane.alerts.models import AlertDelivery, AlertDestination, AlertRule, DeliveryStatus
from opsplane.db import new_id
from opsplane.outbox import OutboxEvent

BATCH = 100
KEEP_TRYING = timedelta(days=1)
LOUDEST_FIRST = (DeliveryStatus.PENDING, DeliveryStatus.HELD, DeliveryStatus.SUPPRESSED)


@dataclass(frozen=True)
class Verdict:
    """What a rule makes of an event: send it now, hold it until `due_at`, or leave it out."""

    rule: AlertRule
    status: DeliveryStatus
    due_at: datetime


async def route(session: AsyncSession) -> int:
    """Make deliveries of the events that wait, oldest first; how many events those were.

    One caller at a time: two could each see a cooldown that has not begun.
    """
    waiting = await session.scalars(
        select(OutboxEvent)
        .where(OutboxEvent.routed_at.is_(None))
        .order_by(OutboxEvent.id)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    events = waiting.all()
    if events:
        rules = (await session.scalars(select(AlertRule).where(AlertRule.enabled).order_by(AlertRule.id))).all()
        places = (await session.scalars(select(AlertDestination).where(AlertDestination.enabled))).all()
        now = await session.scalar(select(func.clock_timestamp()))
        assert now is not None
        for event in events:
            await _route(session, event, rules, places, now)
    return len(events)


async def _route(
    session: AsyncSession,
    event: OutboxEvent,
    rules: Sequence[AlertRule],
    places: Sequence[AlertDestination],
    now: datetime,
) -> None:
    verdicts = [await _judge(session, rule, event, now) for rule in rules if matching.matches(rule, event)]
    rows = [_delivery(event, place, verdict) for place, verdict in _loudest(verdicts, places)]
    if rows:
        await session.execute(insert(AlertDelivery).values(rows).on_conflict_do_nothing())
    event.routed_at = now
    await session.flush()


async def _judge(session: AsyncSession, rule: AlertRule, event: OutboxEvent, now: datetime) -> Verdict:
    if rule.cooldown_s and await _sent_since(
        session, rule.id, matching.cooldown_key(event), now - timedelta(seconds=rule.cooldown_s)
    ):
        return Verdict(rule, DeliveryStatus.SUPPRESSED, now)
    loud_at = _loud_at(rule, now)
    return Verdict(rule, DeliveryStatus.HELD if loud_at > now else DeliveryStatus.PENDING, loud_at)


def _loud_at(rule: AlertRule, now: datetime) -> datetime:
    if rule.quiet_from is None or rule.quiet_until is None or rule.quiet_zone is None:
        return now
    return quiet_hours.parse(rule.quiet_from, rule.quiet_until, rule.quiet_zone).over_at(now)


async def _sent_since(session: AsyncSession, rule_id: uuid.UUID, key: str, since: datetime) -> bool:
    sent = select(AlertDelivery.id).where(
        AlertDelivery.rule_id == rule_id,
        AlertDelivery.cooldown_key == key,
        AlertDelivery.created_at > since,
        AlertDelivery.status != DeliveryStatus.SUPPRESSED,
    )
    return bool(await session.scalar(select(sent.exists())))


def _loudest(
    verdicts: Sequence[Verdict], places: Sequence[AlertDestination]
) -> Iterator[tuple[AlertDestination, Verdict]]:
    """For each destination the verdict that tells it most, and soonest: two rules never send twice."""
    for place in places:
        wanted = [one for one in verdicts if not one.rule.destination_ids or place.id in one.rule.destination_ids]
        if wanted:
            yield place, min(wanted, key=lambda one: (LOUDEST_FIRST.index(one.status), one.due_at))


def _delivery(event: OutboxEvent, place: AlertDestination, verdict: Verdict) -> dict[str, object]:
    return {
        "id": new_id(),
        "event_id": event.id,
        "destination_id": place.id,
        "destination_name": place.name,
        "rule_id": verdict.rule.id,
        "cooldown_key": matching.cooldown_key(event),
        "status": verdict.status,
        "due_at": verdict.due_at,
        "give_up_at": verdict.due_at + KEEP_TRYING,
    }
