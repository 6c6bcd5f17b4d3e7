"""Runs while the database has trouble: they rest, wait without holding anything, say so, and go on by themselves."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from opsplane.auth.actors import Actor
from opsplane.runbooks import control, registry
from opsplane.runbooks.service import Plane
from opsplane.runs import drain as drains
from opsplane.runs import metrics, processes, sweeper
from opsplane.runs.control import Ask
from opsplane.runs.drain import Drained, Drainer
from opsplane.runs.models import OperationRunItem
from opsplane.runs.throttling import marks, pacer, readings, throttle
from opsplane.runs.throttling.pacer import Pacer
from opsplane.runs.throttling.readings import Reading, Replica
from opsplane.runs.throttling.throttle import Throttle
from opsplane.runs.throttling.verdicts import Level
from opsplane.tenants.models import Tenant
from tests import support, web
from tests.integration.conftest import Commands
from tests.integration.test_execution import effects
from tests.integration.test_metrics import counted
from tests.integration.test_processes import until
from tests.support import PLAIN
from tests.web import HTML, Doors

SLOW = "test.effects.slow"
ROWS = 40  # of each tenant, as in tests/runbooks/effects.py, which takes ten of them at once
FEW = 4
QUICK_S = 0.05
REFUSED = DBAPIError("SELECT", None, Exception("permission denied for function pg_current_wal_lsn"))


class Health:
    """What the database says from now on."""

    def __init__(self) -> None:
        self.lag_s, self.asked, self.failing = 0.0, 0, False

    async def read(self, *_: object) -> Reading:
        self.asked += 1
        if self.failing:
            raise REFUSED
        return Reading(replica=Replica("one", self.lag_s, 0))


@pytest.fixture
def health(monkeypatch: pytest.MonkeyPatch) -> Health:
    """A database whose replica is as far behind as the test says, read in quick succession."""
    found = Health()
    monkeypatch.setattr(readings, "read", found.read)
    for module in (throttle, pacer):
        monkeypatch.setattr(module, "READ_EVERY_S", QUICK_S)
    return found


async def throttled(plane: Plane, run_id: uuid.UUID) -> str | None:
    shown = await support.show(plane, run_id)
    return None if shown.throttled is None else shown.throttled.reason


def is_throttled(plane: Plane, run_id: uuid.UUID, *, be: bool = True) -> Callable[[], Any]:
    async def look() -> bool:
        return (await throttled(plane, run_id) is not None) == be

    return look


async def states(plane: Plane) -> set[str]:
    async with plane.db.reading() as session:
        return set(await session.scalars(select(OperationRunItem.state)))


async def test_a_run_waits_while_a_replica_lags_and_is_done_once_it_has_caught_up(
    plane: Plane, operator: Actor, tenants: list[Tenant], health: Health
) -> None:
    health.lag_s = 25
    run_id = await support.begun(plane, operator)
    waited = counted("opsplane_throttled_seconds_total", "replica_lag")
    task = asyncio.create_task(support.drain(plane, run_id))
    await until(is_throttled(plane, run_id))
    await asyncio.sleep(4 * QUICK_S)
    shown = await support.show(plane, run_id)
    assert shown.throttled is not None
    assert (shown.status, shown.throttled.reason) == ("running", "replica one is 25 s behind")
    assert shown.next_step.startswith("Throttled: replica one is 25 s behind.")
    assert await effects(plane) == (0, 0)
    assert await states(plane) == {"pending"}
    async with plane.db.reading() as session:
        held = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND clock_timestamp() - xact_start > interval '0.5 s'"
        )
        assert await session.scalar(text(held)) == 0
    assert counted("opsplane_throttled_seconds_total", "replica_lag") > waited
    assert counted("opsplane_throttled", "replica_lag") == 1
    health.lag_s = 0
    assert await task is Drained.EMPTY
    done = await support.show(plane, run_id)
    assert (done.outcome, done.throttled, await effects(plane)) == ("succeeded", None, (3 * ROWS, 3 * ROWS))


async def test_trouble_in_the_middle_of_a_tenant_gives_it_back_with_its_cursor(
    plane: Plane, operator: Actor, tenants: list[Tenant], health: Health
) -> None:
    run_id = await support.begun(plane, operator, SLOW)
    worker = support.drainer(plane)
    task = asyncio.create_task(worker.drain(run_id))

    async def begun() -> bool:
        return (await effects(plane))[0] > 0

    await until(begun)
    health.lag_s = 99
    await until(is_throttled(plane, run_id))
    assert await states(plane) == {"pending"}
    written = (await effects(plane))[0]
    assert 0 < written < ROWS
    await asyncio.sleep(0.5)
    assert (await effects(plane))[0] == written
    health.lag_s = 0
    await until(is_throttled(plane, run_id, be=False))
    assert (await support.show(plane, run_id)).status == "running"
    assert await task is Drained.EMPTY
    assert await effects(plane) == (3 * ROWS, 3 * ROWS)


async def test_a_slow_run_rests_within_its_lease_and_says_so_until_it_is_at_full_speed_again(
    plane: Plane, operator: Actor, tenants: list[Tenant], health: Health
) -> None:
    health.lag_s = 15
    run_id = await support.begun(plane, operator)
    lost = counted("opsplane_leases_lost_total")
    rested = counted("opsplane_throttled_seconds_total", "replica_lag")
    said = set()

    async def watch() -> None:
        while True:
            said.add(await throttled(plane, run_id))
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    assert await support.drain(plane, run_id) is Drained.EMPTY
    watching.cancel()
    assert "replica one is 15 s behind" in said
    assert counted("opsplane_throttled_seconds_total", "replica_lag") > rested
    assert counted("opsplane_leases_lost_total") == lost
    done = await support.show(plane, run_id)
    assert (done.outcome, done.throttled) == ("succeeded", None)


async def test_chunks_of_a_slow_run_are_small(
    plane: Plane, operator: Actor, tenants: list[Tenant], health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    monkeypatch.setattr(metrics, "chunk", lambda _type, updated, _seconds: rows.append(updated))
    small = Plane(plane.db, plane.queue, plane.settings.model_copy(update={"chunk_min_rows": FEW}))
    run_id = await support.begun(plane, operator)
    await support.drain(small, run_id)
    assert max(rows) > FEW
    rows.clear()
    health.lag_s = 15
    run_id = await support.begun(plane, operator)
    await support.drain(small, run_id)
    assert (max(rows), sum(rows)) == (FEW, 3 * ROWS)


async def test_a_rest_follows_work_and_not_a_look_that_took_long(
    plane: Plane, operator: Actor, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read(*_: object) -> Reading:
        await asyncio.sleep(0.3)
        return Reading(replica=Replica("one", 15, 0))

    monkeypatch.setattr(readings, "read", read)
    monkeypatch.setattr(throttle, "READ_EVERY_S", 0)
    run_id = await support.begun(plane, operator)
    settings = plane.settings.model_copy(update={"lease_s": 60})  # a rest takes a quarter of it at most
    limited = Throttle(plane.db, settings, plane.queue.hints)
    pace = Pacer(limited, plane.db, settings, asyncio.Event(), run_id, registry.find(PLAIN))
    began = time.monotonic()
    for _ in range(2):
        assert await pace.before_claim(ends=began + 60)
        assert await pace.before_chunk()
    assert pace.is_slow
    assert time.monotonic() - began < 4 * 0.3 + 1  # with either look it would be 2.1 s more


async def test_whoever_comes_during_a_look_waits_for_what_it_finds(
    plane: Plane, operator: Actor, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def read(*_: object) -> Reading:
        asked.append(time.monotonic())
        await asyncio.sleep(0.2)
        return Reading(replica=Replica("one", 15, 0))

    monkeypatch.setattr(readings, "read", read)
    run_id = await support.begun(plane, operator)
    limited = Throttle(plane.db, plane.settings, plane.queue.hints)
    looks = await asyncio.gather(*(limited.look(run_id, None) for _ in range(3)))
    assert [one.level for one in looks] == [Level.SLOW] * 3
    assert len(asked) == 1


async def test_what_a_database_was_like_before_a_long_pause_is_forgotten(
    plane: Plane, operator: Actor, tenants: list[Tenant], health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    health.lag_s = 99
    run_id = await support.begun(plane, operator)
    limited = Throttle(plane.db, plane.settings, plane.queue.hints)
    assert (await limited.look(run_id, None)).level is Level.PAUSE
    health.lag_s = 0
    monkeypatch.setattr(throttle, "FORGET_AFTER_S", QUICK_S)
    await asyncio.sleep(2 * QUICK_S)
    assert (await limited.look(run_id, None)).level is Level.GO


async def paused_by_its_replica(plane: Plane, operator: Actor, health: Health) -> tuple[uuid.UUID, Drainer, Any]:
    health.lag_s = 25
    run_id = await support.begun(plane, operator)
    worker = support.drainer(plane)
    task = asyncio.create_task(worker.drain(run_id))
    await until(is_throttled(plane, run_id))
    return run_id, worker, task


async def test_a_stop_ends_the_waiting_at_once(
    plane: Plane, operator: Actor, tenants: list[Tenant], health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacer, "READ_EVERY_S", 60)
    _, worker, task = await paused_by_its_replica(plane, operator, health)
    worker.stop.set()
    async with asyncio.timeout(2):
        assert await task is Drained.STOPPED


@pytest.mark.parametrize(("what", "status"), [(Ask.PAUSE, "paused"), (Ask.CANCEL, "completed")])
async def test_what_an_operator_asks_for_takes_effect_though_it_is_throttled(
    plane: Plane, operator: Actor, tenants: list[Tenant], health: Health, what: Ask, status: str
) -> None:
    run_id, _, task = await paused_by_its_replica(plane, operator, health)
    shown = await control.ask(plane, run_id, what, by=operator)
    assert (shown.status, shown.throttled) == (status, None)
    async with asyncio.timeout(5):
        assert await task is Drained.EMPTY
    assert await throttled(plane, run_id) is None


async def test_what_waits_longer_than_a_slice_makes_room_and_comes_again(
    plane: Plane, operator: Actor, tenants: list[Tenant], health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drains, "SLICE_S", 0.2)
    run_id, _, task = await paused_by_its_replica(plane, operator, health)
    async with asyncio.timeout(5):
        assert await task is Drained.THROTTLED
    assert await throttled(plane, run_id) is not None


async def test_a_throttled_run_is_neither_stalled_nor_given_up(
    plane: Plane, operator: Actor, tenants: list[Tenant], health: Health
) -> None:
    run_id, _, task = await paused_by_its_replica(plane, operator, health)
    async with plane.db.transaction() as tx:
        await tx.session.execute(
            text("UPDATE operation_runs SET created_at = now() - interval '9 h', started_at = now() - interval '9 h'")
        )
        await processes.beat(tx.session, uuid.uuid4(), kind=processes.WORKER, slots=2)
    await sweeper.sweep(plane.db, plane.queue, plane.settings)
    shown = await support.show(plane, run_id)
    assert (shown.status, shown.stalled, shown.throttled is None) == ("running", False, False)
    health.lag_s = 0
    await task


async def test_a_run_that_was_throttled_until_now_is_not_stalled_but_one_of_long_ago_is(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    ended = "UPDATE operation_runs SET started_at = now() - interval '9 h', throttled_until = now() - interval '{} s'"
    for ago, stalled in ((1, False), (121, True), (1, False)):
        async with plane.db.transaction() as tx:
            await tx.session.execute(text(ended.format(ago)))
        await sweeper.sweep(plane.db, plane.queue, plane.settings)
        assert (await support.show(plane, run_id)).stalled is stalled


async def test_a_throttled_run_whose_worker_died_is_no_longer_called_throttled(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    async with plane.db.transaction() as tx:
        assert await marks.put(tx.session, run_id, "replica is 14 s behind")
    await sweeper.sweep(plane.db, plane.queue, plane.settings)
    assert await throttled(plane, run_id) == "replica is 14 s behind"
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("UPDATE operation_runs SET throttled_until = now() - interval '1 s'"))
    await sweeper.sweep(plane.db, plane.queue, plane.settings)
    assert await throttled(plane, run_id) is None


async def test_it_is_said_since_when_whatever_the_reason_becomes_and_a_run_that_is_over_is_not_throttled(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    async with plane.db.transaction() as tx:
        await marks.put(tx.session, run_id, "first")
    first = (await support.show(plane, run_id)).throttled
    async with plane.db.transaction() as tx:
        await marks.put(tx.session, run_id, "second")
    second = (await support.show(plane, run_id)).throttled
    assert first is not None
    assert second is not None
    assert (second.reason, second.since) == ("second", first.since)
    assert await support.drain(plane, run_id) is Drained.EMPTY
    assert await throttled(plane, run_id) is None
    async with plane.db.transaction() as tx:
        assert not await marks.put(tx.session, run_id, "third")


async def test_a_healthy_run_writes_nothing_of_it_and_asks_once_for_many_chunks(
    plane: Plane, operator: Actor, tenants: list[Tenant], health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "READ_EVERY_S", 60)
    monkeypatch.setattr(marks, "lift", None)
    worker = support.drainer(plane)
    run_id = await support.begun(plane, operator)
    await asyncio.gather(*(worker.drain(run_id) for _ in range(3)))
    assert health.asked == 1
    assert (await support.show(plane, run_id)).outcome == "succeeded"


async def test_what_is_switched_off_does_not_even_ask(
    plane: Plane, operator: Actor, tenants: list[Tenant], health: Health
) -> None:
    health.lag_s = 999
    off = Plane(plane.db, plane.queue, plane.settings.model_copy(update={"throttle": False}))
    run_id = await support.begun(plane, operator)
    assert await support.drain(off, run_id) is Drained.EMPTY
    assert health.asked == 0


async def test_a_database_that_will_not_say_how_it_is_holds_no_run_up(
    plane: Plane, operator: Actor, tenants: list[Tenant], health: Health
) -> None:
    run_id, _, task = await paused_by_its_replica(plane, operator, health)
    health.failing = True
    assert await task is Drained.EMPTY
    assert (await support.show(plane, run_id)).outcome == "succeeded"


async def test_pages_and_lists_say_that_a_run_is_throttled_and_why(
    plane: Plane, doors: Doors, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    async with plane.db.transaction() as tx:
        await marks.put(tx.session, run_id, "replica is 14 s behind")
    user = await web.platform_user(plane, "platform.system.access", "platform.ops.view", "platform.runbooks.view")
    client = await doors.signed_in(user.email)
    shown = (await client.get(f"/system/ops/runs/{run_id}")).json()["throttled"]
    assert shown["reason"] == "replica is 14 s behind"
    page = (await client.get(f"/system/ops/runs/{run_id}", headers=HTML)).text
    assert '<span data-badge-slot="status"><span class="badge amber" data-badge="status" data-value="throttled"' in page
    assert "Throttled: replica is 14 s behind." in page
    rows = (await client.get("/system/ops/runs", headers=HTML)).text
    assert '<span data-run-badge><span class="badge amber" data-badge="status" data-value="throttled"' in rows
    assert "data-why>replica is 14 s behind<" in rows
    assert (await client.get("/system/ops/runs")).json()["items"][0]["throttled"] == shown
    assert (await client.get("/system/ops/runbooks", headers=HTML)).status_code == 200


async def test_a_real_worker_waits_for_a_real_crowd_and_goes_on_without_it(
    plane: Plane, operator: Actor, tenants: list[Tenant], commands: Commands
) -> None:
    crowd = [await asyncpg.connect(plane.settings.database_url) for _ in range(5)]
    busy = [asyncio.ensure_future(one.execute("SELECT pg_sleep(300)")) for one in crowd]
    worker = commands.start("worker", OPSPLANE_THROTTLE_ACTIVE_CONNECTIONS="1")
    run_id = (await support.start(plane, operator, PLAIN)).run.id
    await until(is_throttled(plane, run_id))
    told = await asyncio.to_thread(commands.run, "runs", "show", str(run_id))
    assert "Throttled" in told.stdout
    assert "5 other sessions are executing something, since 20" in told.stdout
    as_json = await asyncio.to_thread(commands.run, "runs", "show", str(run_id), "--json")
    assert json.loads(as_json.stdout)["throttled"]["reason"] == "5 other sessions are executing something"
    assert await effects(plane) == (0, 0)
    async with plane.db.transaction() as tx:
        crowded = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(300)'"
        await tx.session.execute(text(crowded))
    await asyncio.gather(*busy, return_exceptions=True)

    async def done() -> bool:
        return (await support.show(plane, run_id)).status == "completed"

    await until(done)
    assert (await support.show(plane, run_id)).outcome == "succeeded"
    began = time.monotonic()
    worker.terminate()
    assert await asyncio.to_thread(worker.wait, 20) == 0
    assert time.monotonic() - began < 20
