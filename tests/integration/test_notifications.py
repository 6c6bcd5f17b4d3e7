"""Who is told of a run in the app, and that nobody reads what others were told."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from opsplane.alerts.models import Notification
from opsplane.auth.actors import Actor, ActorKind
from opsplane.auth.capabilities import Capability
from opsplane.auth.models import PlatformUser
from opsplane.outbox import OutboxEvent
from opsplane.runbooks import control
from opsplane.runbooks.service import Plane
from opsplane.runs import sweeper
from opsplane.runs.control import Ask
from opsplane.runs.models import OperationRun
from opsplane.tenants.models import Tenant
from tests import support, web
from tests.support import begun
from tests.web import Client, Doors

PLAIN, FAILS = "test.effects.plain", "test.effects.fails"
EVERY = tuple(Capability)


@pytest.fixture
async def olga(plane: Plane) -> PlatformUser:
    return await web.platform_user(plane, *EVERY, email="olga@ops.test")


def acting(user: PlatformUser, **values: Any) -> Actor:
    return Actor(kind=ActorKind.PLATFORM_USER, display=user.email, id=user.id, **values)


async def told(plane: Plane) -> Sequence[Notification]:
    async with plane.db.reading() as session:
        return (await session.scalars(select(Notification).order_by(Notification.id))).all()


async def bell(client: Client) -> dict[str, Any]:
    answer = await client.get("/system/notifications")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def ring(plane: Plane, user: PlatformUser) -> None:
    await support.finished_run(plane, acting(user), FAILS)


async def test_whoever_started_a_run_that_failed_is_told_once(
    plane: Plane, olga: PlatformUser, tenants: list[Tenant]
) -> None:
    run_id = await support.finished_run(plane, acting(olga), FAILS)
    await sweeper.sweep(plane.db, plane.queue, plane.settings)
    [one] = await told(plane)
    assert (one.user_id, one.run_id, one.kind, one.severity) == (olga.id, run_id, "operations.run.failed", "warning")
    assert one.read_at is None


async def test_nobody_is_told_of_a_run_that_is_queued_running_or_succeeds(
    plane: Plane, olga: PlatformUser, tenants: list[Tenant]
) -> None:
    run = (await support.start(plane, acting(olga), PLAIN)).run
    assert not await told(plane)
    await support.drain(plane, run.id)
    assert (await support.show(plane, run.id)).outcome == "succeeded"
    assert not await told(plane)


async def test_nobody_is_told_of_a_run_that_somebody_cancelled(
    plane: Plane, olga: PlatformUser, tenants: list[Tenant]
) -> None:
    run_id = await begun(plane, acting(olga), FAILS)
    await control.ask(plane, run_id, Ask.CANCEL, by=acting(olga))
    assert (await support.show(plane, run_id)).outcome == "cancelled"
    assert not await told(plane)


@pytest.mark.parametrize("who", [Actor.system("deploy"), Actor.shell("root")], ids=["deploy hook", "shell"])
async def test_a_run_that_no_operator_started_tells_nobody_in_the_app_and_alerts_all_the_same(
    plane: Plane, olga: PlatformUser, tenants: list[Tenant], who: Actor
) -> None:
    await support.finished_run(plane, who, FAILS)
    assert not await told(plane)
    assert await support.count(plane, OutboxEvent, OutboxEvent.kind == "operations.run.failed") == 1


async def test_the_owner_of_a_token_is_told_of_the_runs_it_starts(
    plane: Plane, olga: PlatformUser, tenants: list[Tenant]
) -> None:
    token = Actor(kind=ActorKind.API_TOKEN, display="ci", id=olga.id)
    await support.finished_run(plane, token, FAILS)
    assert [one.user_id for one in await told(plane)] == [olga.id]


async def test_a_run_that_stalls_alerts_once_however_long_it_does(
    plane: Plane, olga: PlatformUser, tenants: list[Tenant]
) -> None:
    run_id = await begun(plane, acting(olga), PLAIN)
    for _ in range(2):
        async with plane.db.transaction() as tx:
            ago = func.clock_timestamp() - timedelta(minutes=3)
            await tx.session.execute(update(OperationRun).values(started_at=ago, stalled_at=None))
        await sweeper.sweep(plane.db, plane.queue, plane.settings)
    async with plane.db.reading() as session:
        event = (await session.scalars(select(OutboxEvent))).one()
    assert (event.kind, event.payload["run_id"]) == ("run.stalled", str(run_id))


async def test_a_run_ends_though_nobody_can_be_told_of_it(
    plane: Plane, olga: PlatformUser, tenants: list[Tenant]
) -> None:
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("ALTER TABLE notifications RENAME TO lost"))
    try:
        run_id = await support.finished_run(plane, acting(olga), FAILS)
    finally:
        async with plane.db.transaction() as tx:
            await tx.session.execute(text("ALTER TABLE lost RENAME TO notifications"))
    assert (await support.show(plane, run_id)).outcome == "partially_succeeded"
    assert await support.count(plane, OutboxEvent) == 1  # those outside hear of it all the same


async def test_the_bell_shows_my_own_newest_first_with_a_link_to_the_run(
    plane: Plane, doors: Doors, olga: PlatformUser, tenants: list[Tenant]
) -> None:
    otto = await web.platform_user(plane, *EVERY, email="otto@ops.test")
    await ring(plane, olga)
    await ring(plane, olga)
    await ring(plane, otto)
    shown = await bell(await doors.signed_in(olga.email))
    everything = await told(plane)
    assert shown["unread"] == 2
    assert [one["id"] for one in shown["items"]] == [str(one.id) for one in reversed(everything[:2])]
    first = shown["items"][0]
    assert first["view_url"] == f"{plane.settings.base_url}/system/ops/runs/{first['run_id']}"
    assert (first["scope"], first["read_at"]) == ("All tenants", None)
    assert first["title"].endswith("partially succeeded")


async def test_one_that_was_read_stays_read_and_leaves_the_count(
    plane: Plane, doors: Doors, olga: PlatformUser, tenants: list[Tenant]
) -> None:
    await ring(plane, olga)
    await ring(plane, olga)
    client = await doors.signed_in(olga.email)
    first = (await bell(client))["items"][0]["id"]
    for _ in range(2):
        assert (await client.post(f"/system/notifications/{first}/read")).status_code == 204
    shown = await bell(client)
    assert (shown["unread"], [one["read_at"] is None for one in shown["items"]]) == (1, [False, True])
    assert (await client.post("/system/notifications/read")).status_code == 204
    assert (await bell(client))["unread"] == 0


async def test_nobody_reads_or_marks_what_others_were_told(
    plane: Plane, doors: Doors, olga: PlatformUser, tenants: list[Tenant]
) -> None:
    await ring(plane, olga)
    [one] = await told(plane)
    otto = await web.platform_user(plane, *EVERY, email="otto@ops.test")
    client = await doors.signed_in(otto.email)
    assert (await bell(client))["items"] == []
    answer = await client.post(f"/system/notifications/{one.id}/read")
    assert (answer.status_code, answer.json()["code"]) == (404, "notification_not_found")
    await client.post("/system/notifications/read")
    assert (await told(plane))[0].read_at is None


async def test_a_token_has_no_bell(plane: Plane, doors: Doors, olga: PlatformUser) -> None:
    secret = await web.token(plane, olga, *EVERY)
    answer = await doors.client(Authorization=f"Bearer {secret}").get("/system/notifications")
    assert (answer.status_code, answer.json()["code"]) == (403, "session_required")


async def test_the_bell_goes_on_where_the_page_before_ended(
    plane: Plane, doors: Doors, olga: PlatformUser, tenants: list[Tenant]
) -> None:
    for _ in range(3):
        await ring(plane, olga)
    client = await doors.signed_in(olga.email)
    first = (await client.get("/system/notifications?limit=2")).json()
    rest = (await client.get(f"/system/notifications?limit=2&cursor={first['next_cursor']}")).json()
    ids = [one["id"] for one in first["items"] + rest["items"]]
    assert (len(ids), len(set(ids)), rest["next_cursor"]) == (3, 3, None)
