"""Routing: which deliveries an event becomes, with cooldowns, quiet hours and several rules."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update

from opsplane import outbox
from opsplane.alerts import forgetting, routing
from opsplane.alerts.models import AlertDelivery, AlertDestination, AlertRule
from opsplane.alerts.rules import USUAL
from opsplane.db import first_id_at, new_id
from opsplane.outbox import Kind, OutboxEvent, Severity
from opsplane.runbooks.service import Plane
from tests import support

RUN = {"type": "findings.backfill", "type_label": "Backfill", "scope_kind": "all_tenants", "tenant": None}
QUIET_NOW = {"quiet_from": "00:00", "quiet_until": "23:59", "quiet_zone": "UTC"}


@pytest.fixture
async def teams(plane: Plane) -> uuid.UUID:
    return await destination(plane, "teams")


async def destination(plane: Plane, name: str, **values: Any) -> uuid.UUID:
    made = {"id": new_id(), "name": name, "kind": "webhook", "address": "https://…", "target": b""} | values
    async with plane.db.transaction() as tx:
        await tx.session.execute(insert(AlertDestination).values(made))
    return uuid.UUID(str(made["id"]))


async def rule(plane: Plane, **values: Any) -> None:
    made = {"id": new_id(), "name": uuid.uuid4().hex, "events": USUAL, "min_severity": "info"} | values
    async with plane.db.transaction() as tx:
        await tx.session.execute(insert(AlertRule).values(made))


async def happens(plane: Plane, kind: Kind = Kind.RUN_FAILED, payload: dict[str, Any] | None = None) -> None:
    async with plane.db.transaction() as tx:
        await outbox.emit(tx.session, kind, uuid.uuid4(), Severity.WARNING, RUN if payload is None else payload)
    await route(plane)


async def route(plane: Plane) -> int:
    async with plane.db.transaction() as tx:
        return await routing.route(tx.session)


async def sent(plane: Plane) -> list[tuple[str, str]]:
    async with plane.db.reading() as session:
        found: Sequence[AlertDelivery] = (await session.scalars(select(AlertDelivery).order_by(AlertDelivery.id))).all()
    return [(one.destination_name, one.status) for one in found]


async def without_the_first_rule(plane: Plane) -> None:
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(AlertRule).values(enabled=False))


@pytest.fixture(autouse=True)
async def _rules_as_they_come(plane: Plane) -> None:
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(AlertRule).values(enabled=True))


async def test_a_destination_gets_failures_without_anybody_writing_a_rule(plane: Plane, teams: uuid.UUID) -> None:
    await happens(plane)
    await happens(plane, Kind.RUN_SUCCEEDED)
    assert await sent(plane) == [("teams", "pending")]


async def test_an_event_is_routed_once(plane: Plane, teams: uuid.UUID) -> None:
    await happens(plane)
    assert await route(plane) == 0
    assert await sent(plane) == [("teams", "pending")]


async def test_the_same_news_of_the_same_run_is_one_event(plane: Plane, teams: uuid.UUID) -> None:
    run = uuid.uuid4()
    for _ in range(2):
        async with plane.db.transaction() as tx:
            await outbox.emit(tx.session, Kind.RUN_FAILED, run, Severity.WARNING, RUN)
        await route(plane)
    assert await sent(plane) == [("teams", "pending")]


async def test_two_rules_that_name_the_same_destination_send_one_message(plane: Plane, teams: uuid.UUID) -> None:
    await rule(plane, destination_ids=[teams])
    await happens(plane)
    assert await sent(plane) == [("teams", "pending")]


async def test_a_rule_sends_to_the_destinations_that_it_names_and_to_no_other(plane: Plane, teams: uuid.UUID) -> None:
    await destination(plane, "mail")
    await without_the_first_rule(plane)
    await rule(plane, destination_ids=[teams])
    await happens(plane)
    assert await sent(plane) == [("teams", "pending")]


async def test_nothing_goes_to_a_destination_or_by_a_rule_that_is_switched_off(plane: Plane) -> None:
    await destination(plane, "off", enabled=False)
    await destination(plane, "on")
    await without_the_first_rule(plane)
    await happens(plane)
    assert await sent(plane) == []
    await rule(plane)
    await happens(plane)
    assert await sent(plane) == [("on", "pending")]


@pytest.mark.parametrize(
    ("cooldown_s", "minutes_between", "statuses"),
    [
        (0, [0, 0], ["pending", "pending", "pending"]),
        (3600, [0, 0], ["pending", "suppressed", "suppressed"]),
        (3600, [59, 0], ["pending", "suppressed", "suppressed"]),
        (3600, [61, 0], ["pending", "pending", "suppressed"]),
        (3600, [31, 31], ["pending", "suppressed", "pending"]),  # what was left out does not make the silence longer
        (3600, [61, 61], ["pending", "pending", "pending"]),
    ],
)
async def test_a_cooldown_lets_the_same_news_through_once_in_its_time(
    plane: Plane, teams: uuid.UUID, cooldown_s: int, minutes_between: list[int], statuses: list[str]
) -> None:
    await without_the_first_rule(plane)
    await rule(plane, cooldown_s=cooldown_s)
    await happens(plane)
    for minutes in minutes_between:
        await pass_by(plane, timedelta(minutes=minutes))
        await happens(plane)
    assert [status for _, status in await sent(plane)] == statuses


async def test_a_cooldown_is_of_one_kind_of_news_of_one_runbook_over_one_scope(plane: Plane, teams: uuid.UUID) -> None:
    await without_the_first_rule(plane)
    await rule(plane, cooldown_s=3600)
    for payload in (RUN, RUN | {"type": "other"}, RUN | {"scope_kind": "single_tenant", "tenant": "acme"}):
        await happens(plane, payload=payload)
    await happens(plane, Kind.RUN_STALLED)
    assert {status for _, status in await sent(plane)} == {"pending"}


async def test_events_that_are_routed_together_cool_down_together(plane: Plane, teams: uuid.UUID) -> None:
    await without_the_first_rule(plane)
    await rule(plane, cooldown_s=3600)
    async with plane.db.transaction() as tx:
        for _ in range(3):
            await outbox.emit(tx.session, Kind.RUN_FAILED, uuid.uuid4(), Severity.WARNING, RUN)
    await route(plane)
    assert sorted(status for _, status in await sent(plane)) == ["pending", "suppressed", "suppressed"]


async def test_a_rule_in_its_cooldown_keeps_no_other_rule_from_sending(plane: Plane, teams: uuid.UUID) -> None:
    await without_the_first_rule(plane)
    await rule(plane, name="cool", cooldown_s=3600)
    await happens(plane)
    await rule(plane, name="always")
    await happens(plane)
    assert [status for _, status in await sent(plane)] == ["pending", "pending"]


async def test_a_cooldown_does_not_count_what_was_given_up(plane: Plane, teams: uuid.UUID) -> None:
    await without_the_first_rule(plane)
    await rule(plane, cooldown_s=3600)
    await happens(plane)
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(AlertDelivery).values(status="dead"))
    await happens(plane)
    assert [status for _, status in await sent(plane)] == ["dead", "pending"]


async def test_a_destination_that_was_told_nothing_has_no_cooldown(plane: Plane, teams: uuid.UUID) -> None:
    await without_the_first_rule(plane)
    await rule(plane, cooldown_s=3600)
    await happens(plane)
    await destination(plane, "mail")
    await happens(plane)
    assert sorted((await sent(plane))[1:]) == [("mail", "pending"), ("teams", "suppressed")]


async def test_two_rules_with_a_cooldown_do_not_defeat_each_other(plane: Plane, teams: uuid.UUID) -> None:
    await without_the_first_rule(plane)
    await rule(plane, cooldown_s=3600)
    await rule(plane, cooldown_s=7200)
    for _ in range(3):
        await happens(plane)
    assert [status for _, status in await sent(plane)] == ["pending", "suppressed", "suppressed"]


async def test_a_failure_is_heard_though_a_partial_one_was_just_told(plane: Plane, teams: uuid.UUID) -> None:
    await without_the_first_rule(plane)
    await rule(plane, cooldown_s=3600)
    await happens(plane)
    async with plane.db.transaction() as tx:
        await outbox.emit(tx.session, Kind.RUN_FAILED, uuid.uuid4(), Severity.CRITICAL, RUN)
    await route(plane)
    assert [status for _, status in await sent(plane)] == ["pending", "pending"]


async def test_what_happens_in_quiet_hours_is_held_until_they_are_over(plane: Plane, teams: uuid.UUID) -> None:
    await without_the_first_rule(plane)
    await rule(plane, **QUIET_NOW)
    now = datetime.now(UTC)
    if now.strftime("%H:%M") == "23:59":
        pytest.skip("it is the one loud minute of the day")
    await happens(plane)
    async with plane.db.reading() as session:
        held = (await session.scalars(select(AlertDelivery))).one()
    assert held.status == "held"
    assert held.due_at == now.replace(hour=23, minute=59, second=0, microsecond=0)
    assert held.give_up_at == held.due_at + timedelta(days=1)


async def test_a_rule_without_quiet_hours_is_heard_at_once_beside_one_that_has_them(
    plane: Plane, teams: uuid.UUID
) -> None:
    await rule(plane, **QUIET_NOW)
    await happens(plane)
    assert await sent(plane) == [("teams", "pending")]


async def test_events_of_three_months_ago_are_forgotten_and_those_on_their_way_are_not(
    plane: Plane, teams: uuid.UUID
) -> None:
    for _ in range(3):
        await happens(plane)
    old = first_id_at(datetime.now(UTC) - timedelta(days=91)).int
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("ALTER TABLE alert_deliveries DROP CONSTRAINT fk_alert_deliveries_event_id"))
        events = (await tx.session.scalars(select(OutboxEvent.id).order_by(OutboxEvent.id))).all()
        for n, event in enumerate(events[:2]):
            aged = uuid.UUID(int=old + n)
            await tx.session.execute(update(OutboxEvent).where(OutboxEvent.id == event).values(id=aged))
            await tx.session.execute(update(AlertDelivery).where(AlertDelivery.event_id == event).values(event_id=aged))
        await tx.session.execute(
            update(AlertDelivery).where(AlertDelivery.event_id == uuid.UUID(int=old)).values(status="delivered")
        )
        await tx.session.execute(
            text(
                "ALTER TABLE alert_deliveries ADD CONSTRAINT fk_alert_deliveries_event_id "
                "FOREIGN KEY (event_id) REFERENCES outbox (id) ON DELETE CASCADE"
            )
        )
        await forgetting.forget_old(tx.session)
    assert await support.count(plane, OutboxEvent) == 2
    assert await sent(plane) == [("teams", "pending"), ("teams", "pending")]


async def pass_by(plane: Plane, time: timedelta) -> None:
    """Let that much time pass for what was sent."""
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(AlertDelivery).values(created_at=AlertDelivery.created_at - time))
