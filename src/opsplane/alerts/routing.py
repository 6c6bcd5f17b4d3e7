"""Routing: every event becomes deliveries, one to each destination that a rule names for it."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.alerts import matching, quiet_hours
from opsplane.alerts.models import AlertDelivery, AlertDestination, AlertRule, DeliveryStatus
from opsplane.db import new_id
from opsplane.outbox import OutboxEvent

log = structlog.get_logger()

BATCH = 100
KEEP_TRYING = timedelta(days=1)
LOUDEST_FIRST = (DeliveryStatus.PENDING, DeliveryStatus.HELD, DeliveryStatus.SUPPRESSED)
UNHEARD = (DeliveryStatus.SUPPRESSED, DeliveryStatus.DEAD)


@dataclass(frozen=True)
class Verdict:
    """What a rule makes of an event for a destination: send it, hold it until `due_at`, or leave it out."""

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
            await _route(session, event, [rule for rule in rules if matching.matches(rule, event)], places, now)
    return len(events)


async def _route(
    session: AsyncSession,
    event: OutboxEvent,
    rules: Sequence[AlertRule],
    places: Sequence[AlertDestination],
    now: datetime,
) -> None:
    heard = await _last_heard(session, event, rules, now)
    rows = [_delivery(event, place, verdict) for place, verdict in _verdicts(rules, places, heard, now)]
    if rows:
        await session.execute(insert(AlertDelivery).values(rows).on_conflict_do_nothing())
    elif rules:
        log.warning("alert_for_nobody", kind=event.kind, event_id=str(event.id))
    event.routed_at = now
    await session.flush()


async def _last_heard(
    session: AsyncSession, event: OutboxEvent, rules: Sequence[AlertRule], now: datetime
) -> dict[uuid.UUID, datetime]:
    """When each destination was last sent the same news, as far back as any cooldown reaches."""
    longest = max((rule.cooldown_s for rule in rules), default=0)
    if not longest:
        return {}
    delivery = AlertDelivery
    rows = await session.execute(
        select(delivery.destination_id, func.max(delivery.created_at))
        .where(
            delivery.cooldown_key == matching.cooldown_key(event),
            delivery.created_at > now - timedelta(seconds=longest),
            delivery.status.not_in(UNHEARD),
        )
        .group_by(delivery.destination_id)
    )
    return {row[0]: row[1] for row in rows.all()}


def _verdicts(
    rules: Sequence[AlertRule],
    places: Sequence[AlertDestination],
    heard: Mapping[uuid.UUID, datetime],
    now: datetime,
) -> Iterator[tuple[AlertDestination, Verdict]]:
    """For each destination the verdict that tells it most, and soonest: two rules never send twice."""
    for place in places:
        wanted = [
            _judge(rule, heard.get(place.id), now)
            for rule in rules
            if not rule.destination_ids or place.id in rule.destination_ids
        ]
        if wanted:
            yield place, min(wanted, key=lambda one: (LOUDEST_FIRST.index(one.status), one.due_at))


def _judge(rule: AlertRule, heard_at: datetime | None, now: datetime) -> Verdict:
    if heard_at is not None and heard_at > now - timedelta(seconds=rule.cooldown_s):
        return Verdict(rule, DeliveryStatus.SUPPRESSED, now)
    loud_at = _loud_at(rule, now)
    return Verdict(rule, DeliveryStatus.HELD if loud_at > now else DeliveryStatus.PENDING, loud_at)


def _loud_at(rule: AlertRule, now: datetime) -> datetime:
    if rule.quiet_from is None or rule.quiet_until is None or rule.quiet_zone is None:
        return now
    try:
        return quiet_hours.parse(rule.quiet_from, rule.quiet_until, rule.quiet_zone).over_at(now)
    except ValueError:  # of a zone that this host does not know: better too early than never
        log.exception("quiet_hours_unreadable", rule=rule.name)
        return now


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
