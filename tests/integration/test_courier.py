"""The courier: every alert arrives once somebody can take it, and a repeat has the key of what it repeats."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import trustme
from sqlalchemy import select, text, update

from opsplane.alerts import courier, deliveries, destinations, forgetting, routing
from opsplane.alerts.channels import targets
from opsplane.alerts.models import AlertDelivery
from opsplane.auth.actors import Actor
from opsplane.config import Settings
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import receivers, support
from tests.receivers import Answer, Receiver

FAILS = "test.effects.fails"
ROOT = Actor.shell("root")
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def receiver(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    receivers.trust(authority, tmp_path, monkeypatch)
    with receivers.https(authority) as found:
        yield found


@pytest.fixture
def reaching(settings: Settings) -> Settings:
    """Settings by which alerts may reach this machine."""
    return settings.model_copy(update={"alert_private_hosts": "127.0.0.1"})


@pytest.fixture
async def house(plane: Plane, reaching: Settings) -> Plane:
    """The plane with those settings."""
    return Plane(plane.db, plane.queue, reaching)


async def add(house: Plane, receiver: Receiver, name: str = "hook") -> None:
    target = targets.parse({"kind": "webhook", "url": receiver.url()})
    async with house.db.transaction() as tx:
        await destinations.add(tx.session, house.settings, name, target, by=ROOT)


async def fail_a_run(house: Plane) -> None:
    await support.finished_run(house, ROOT, FAILS)
    async with house.db.transaction() as tx:
        await routing.route(tx.session)


async def deliver(house: Plane) -> int:
    return await courier.deliver(house.db, house.settings, asyncio.Event())


async def the_delivery(house: Plane) -> AlertDelivery:
    async with house.db.reading() as session:
        return (await session.scalars(select(AlertDelivery))).one()


async def pass_by(house: Plane, time: timedelta) -> None:
    """Let that much time pass for the deliveries."""
    delivery = AlertDelivery
    earlier = {name: getattr(delivery, name) - time for name in ("due_at", "give_up_at", "created_at")}
    async with house.db.transaction() as tx:
        await tx.session.execute(update(delivery).values(earlier))


async def live_through(house: Plane, time: timedelta, step: timedelta = timedelta(seconds=30)) -> None:
    """Go through the time step by step, with a courier that looks at each."""
    for _ in range(int(time / step)):
        await deliver(house)
        await pass_by(house, step)


async def test_a_failed_run_arrives_once_with_its_counts_and_the_link_to_it(
    house: Plane, receiver: Receiver, tenants: list[Tenant]
) -> None:
    await add(house, receiver)
    await fail_a_run(house)
    assert await deliver(house) == 1
    assert await deliver(house) == 0
    [request] = receiver.requests
    told = json.loads(request.body)
    assert told["type"] == "operations.run.failed"
    assert told["data"]["counts"]["failed"] == 1
    assert told["data"]["view_url"] == f"{house.settings.base_url}/system/ops/runs/{told['data']['run_id']}"
    marked = await the_delivery(house)
    assert (marked.status, marked.attempts, marked.last_error) == ("delivered", 1, None)
    assert marked.delivered_at is not None


async def test_nothing_of_what_customers_stored_leaves_the_house(
    house: Plane, receiver: Receiver, tenants: list[Tenant]
) -> None:
    await add(house, receiver)
    await fail_a_run(house)
    await deliver(house)
    [request] = receiver.requests
    run = json.loads(request.body)["data"]
    assert set(run) == {
        "run_id", "type", "type_label", "outcome", "scope_kind", "tenant", "counts", "severity", "view_url", "title",
    }  # fmt: skip
    for secret in ("bob@globex.example", "globex is broken", "a test"):  # of the failure, and of the reason
        assert secret not in request.body.decode()


@pytest.mark.parametrize(
    "trouble", [receivers.answers(500), receivers.hangs_up, receivers.answers(404)], ids=["500", "hangs up", "404"]
)
async def test_an_hour_of_trouble_loses_nothing_and_repeats_nothing(
    house: Plane, receiver: Receiver, tenants: list[Tenant], trouble: Answer
) -> None:
    await add(house, receiver)
    receiver.answer = trouble
    await fail_a_run(house)
    await live_through(house, HOUR)
    late = await the_delivery(house)
    assert late.status == "pending"
    assert 6 <= late.attempts <= 14
    assert late.last_error
    receiver.answer, tried = receivers.answers(200), len(receiver.requests)
    await live_through(house, HOUR)
    assert (await the_delivery(house)).status == "delivered"
    assert len(receiver.requests) == tried + 1
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    assert len({request.body for request in receiver.requests}) == 1


async def test_a_receiver_that_hangs_keeps_no_other_waiting(
    house: Plane, receiver: Receiver, authority: trustme.CA, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "END_S", 0.2)
    receiver.answer = receivers.hangs
    with receivers.https(authority) as well:
        await add(house, receiver, "hangs")
        await add(house, well, "works")
        for _ in range(4):
            await fail_a_run(house)
        async with working(house):
            await _until(lambda: len(well.requests) == 4)
        assert len(receiver.requests) == 1  # which still hangs


async def test_a_receiver_that_does_not_answer_is_said_so(
    house: Plane, receiver: Receiver, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsplane.alerts.channels.base.SEND_S", 0.5)
    receiver.answer = receivers.hangs
    await add(house, receiver)
    await fail_a_run(house)
    await deliver(house)
    late = await the_delivery(house)
    assert (late.status, late.last_error) == ("pending", "127.0.0.1 did not answer in time")


@asynccontextmanager
async def working(house: Plane) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(courier.deliver_until(stop, house.db, house.settings))
    yield
    stop.set()
    await task


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not true():  # noqa: ASYNC110 - it answers from another thread
            await asyncio.sleep(0.02)


async def test_a_receiver_that_was_away_gets_what_happened_meanwhile(
    house: Plane, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tenants: list[Tenant]
) -> None:
    receivers.trust(authority, tmp_path, monkeypatch)
    with receivers.https(authority) as gone:
        await add(house, gone)
    for _ in range(3):
        await fail_a_run(house)
    await live_through(house, HOUR / 2)
    with receivers.https(authority, port=gone.port) as back:
        await live_through(house, HOUR)
        assert len({request.headers["webhook-id"] for request in back.requests}) == len(back.requests) == 3


async def test_a_receiver_that_asks_for_patience_gets_it(
    house: Plane, receiver: Receiver, tenants: list[Tenant]
) -> None:
    await add(house, receiver)
    receiver.answer = receivers.answers(429, Retry_After="600")
    await fail_a_run(house)
    await deliver(house)
    await pass_by(house, timedelta(seconds=590))
    assert await deliver(house) == 0
    await pass_by(house, timedelta(seconds=20))
    assert await deliver(house) == 1


async def test_after_a_day_a_delivery_is_dead_until_somebody_sends_it_again(
    house: Plane, receiver: Receiver, tenants: list[Tenant]
) -> None:
    await add(house, receiver)
    receiver.answer = receivers.answers(500)
    await fail_a_run(house)
    await live_through(house, timedelta(days=1, hours=1), step=timedelta(minutes=20))
    dead = await the_delivery(house)
    assert dead.status == "dead"
    receiver.answer = receivers.answers(200)
    assert await deliver(house) == 0


async def test_what_nobody_could_try_for_days_is_tried_before_it_is_given_up(
    house: Plane, receiver: Receiver, tenants: list[Tenant]
) -> None:
    await add(house, receiver)
    await fail_a_run(house)
    await pass_by(house, timedelta(days=3))
    assert await deliver(house) == 1
    assert (await the_delivery(house)).status == "delivered"


async def test_what_was_held_and_fails_is_on_its_way_and_cannot_be_sent_twice_by_hand(
    house: Plane, receiver: Receiver, tenants: list[Tenant]
) -> None:
    await add(house, receiver)
    await fail_a_run(house)
    async with house.db.transaction() as tx:
        await tx.session.execute(update(AlertDelivery).values(status="held"))
    receiver.answer = receivers.answers(500)
    await deliver(house)
    failed = await the_delivery(house)
    assert failed.status == "pending"
    async with house.db.transaction() as tx:
        with pytest.raises(deliveries.NotToResend):
            await deliveries.resend(tx.session, failed.id, by=ROOT, base_url=house.settings.base_url)


async def test_of_many_couriers_one_sends(house: Plane, receiver: Receiver, tenants: list[Tenant]) -> None:
    await add(house, receiver)
    await fail_a_run(house)
    await asyncio.gather(*(deliver(house) for _ in range(8)))
    assert len(receiver.requests) == 1


async def test_a_courier_that_was_slow_does_not_undo_what_another_marked(
    house: Plane, receiver: Receiver, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(house, receiver)
    await fail_a_run(house)
    receiver.answer = _after(2, receivers.answers(500))
    slow = asyncio.create_task(deliver(house))
    await _until(lambda: bool(receiver.requests))
    await asyncio.sleep(0.1)  # until it has chosen its answer
    receiver.answer = receivers.answers(200)
    await pass_by(house, timedelta(seconds=61))
    assert await deliver(house) == 1
    await slow
    assert (await the_delivery(house)).status == "delivered"


def _after(seconds: float, answer: Answer) -> Answer:
    async def late(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        await answer(writer)

    return late


async def test_a_process_that_stops_waits_for_no_receiver_that_hangs(
    house: Plane, receiver: Receiver, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "END_S", 0.2)
    await add(house, receiver)
    receiver.answer = receivers.hangs
    await fail_a_run(house)
    stop = asyncio.Event()
    working = asyncio.create_task(courier.deliver_until(stop, house.db, house.settings))
    await _until(lambda: bool(receiver.requests))
    stop.set()
    async with asyncio.timeout(3):
        await working
    assert "opsplane was stopped" in ((await the_delivery(house)).last_error or "")


KILLED = """
import asyncio, os, signal, sys
from opsplane.alerts import courier
from opsplane.config import Settings
from opsplane.db import Database

async def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

courier._mark = killed
settings = Settings()
asyncio.run(courier.deliver(Database(settings), settings, asyncio.Event()))
"""


async def test_a_courier_killed_between_sending_and_marking_causes_one_repeat_with_the_same_key(
    house: Plane, receiver: Receiver, tenants: list[Tenant]
) -> None:
    await add(house, receiver)
    await fail_a_run(house)
    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", KILLED], env=_environment(house.settings), timeout=60, check=False
    )
    assert process.returncode == -signal.SIGKILL
    assert await deliver(house) == 0  # the claim of the dead has not run out
    await pass_by(house, timedelta(seconds=61))
    while await deliver(house):
        await pass_by(house, HOUR)
    first, repeat = receiver.requests
    assert first.headers["webhook-id"] == repeat.headers["webhook-id"]
    assert first.body == repeat.body


def _environment(settings: Settings) -> dict[str, str]:
    assert settings.database_url is not None
    assert settings.redis_url is not None
    assert settings.secret_key is not None
    return os.environ | {
        "OPSPLANE_DATABASE_URL": settings.database_url,
        "OPSPLANE_REDIS_URL": settings.redis_url,
        "OPSPLANE_SECRET_KEY": settings.secret_key.get_secret_value(),
        "OPSPLANE_ALERT_PRIVATE_HOSTS": "127.0.0.1",
        "OPSPLANE_BASE_URL": settings.base_url,
    }


async def test_what_is_on_its_way_to_a_destination_that_is_deleted_is_dead(
    house: Plane, receiver: Receiver, tenants: list[Tenant]
) -> None:
    await add(house, receiver)
    await fail_a_run(house)
    async with house.db.transaction() as tx:
        [place] = await destinations.every(tx.session)
        await destinations.remove(tx.session, place.id, by=ROOT)
    assert await deliver(house) == 0
    left = await the_delivery(house)
    assert (left.status, left.destination_name, left.last_error) == ("dead", "hook", "The destination was deleted.")


async def test_what_is_routed_in_the_moment_its_destination_is_deleted_is_dead_too(
    house: Plane, receiver: Receiver, tenants: list[Tenant]
) -> None:
    await add(house, receiver)
    await fail_a_run(house)
    async with house.db.transaction() as tx:
        await tx.session.execute(text("DELETE FROM alert_destinations"))
        await forgetting.forget_old(tx.session)
    left = await the_delivery(house)
    assert (left.status, left.last_error) == ("dead", "The destination was deleted.")


async def test_nothing_is_sent_to_a_destination_while_it_is_off(
    house: Plane, receiver: Receiver, tenants: list[Tenant]
) -> None:
    await add(house, receiver)
    await fail_a_run(house)
    await _switch(house, on=False)
    assert await deliver(house) == 0
    await _switch(house, on=True)
    assert await deliver(house) == 1


async def _switch(house: Plane, *, on: bool) -> None:
    async with house.db.transaction() as tx:
        [place] = await destinations.every(tx.session)
        await destinations.change(tx.session, house.settings, place.id, name=None, enabled=on, target=None, by=ROOT)


async def test_an_address_is_encrypted_in_the_database_and_says_so_when_the_key_is_lost(
    house: Plane, receiver: Receiver, tenants: list[Tenant], settings: Settings
) -> None:
    await add(house, receiver)
    async with house.db.reading() as session:
        stored = str((await session.execute(text("SELECT * FROM alert_destinations"))).one())
    assert "s3cret" not in stored
    await fail_a_run(house)
    other = house.settings.model_copy(update={"secret_key": "another key, also of at least 32 characters"})
    other = Settings.model_validate(other.model_dump() | {"secret_key": "another key, also of at least 32 characters"})
    await courier.deliver(house.db, other, asyncio.Event())
    assert "OPSPLANE_SECRET_KEY was changed" in ((await the_delivery(house)).last_error or "")
    assert not receiver.requests


@pytest.mark.parametrize(("attempt", "least", "most"), [(1, 8, 12), (2, 24, 36), (7, 720, 1080), (99, 720, 1080)])
def test_patience_grows_to_a_quarter_of_an_hour(attempt: int, least: float, most: float) -> None:
    for _ in range(50):
        assert least <= courier.patience_s(attempt) <= most
