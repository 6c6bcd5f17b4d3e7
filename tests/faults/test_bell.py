"""How a worker's bell ends: although arq's poll swallows a cancellation (seed 1), and with every connection closed."""

import asyncio
import uuid
from typing import Any, cast

import pytest
from arq.worker import Worker
from redis.exceptions import ConnectionError as RedisAway

from opsplane.queue import Queue
from opsplane.runbooks.service import Plane
from opsplane.runs.drain import Drained, Drainer
from opsplane.workers.bell import Bell


class Deaf:
    """What `asyncio.wait_for` of Python 3.11 does when its future is done in the very moment of the cancellation."""

    def __init__(self, cancels: int) -> None:
        self.left, self.tasks = cancels, dict[str, asyncio.Task[Any]]()
        self.allow_pick_jobs = True
        self.pool = self

    async def async_run(self) -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.left -= 1
                if not self.left:
                    raise

    async def aclose(self, *, close_connection_pool: bool) -> None:
        """Nothing to close."""


@pytest.mark.parametrize("cancels", [1, 2, 3])
async def test_the_bell_ends_although_a_cancellation_was_swallowed(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, cancels: int
) -> None:
    deaf = Deaf(cancels)
    monkeypatch.setattr(Bell, "_worker", lambda _bell: deaf)
    stop = asyncio.Event()
    drainer = Drainer(plane.db, plane.settings, uuid.uuid4(), stop, plane.queue.hints)
    listening = asyncio.create_task(
        Bell(drainer, plane.queue, slots=asyncio.Semaphore(1), concurrency=1).listen()
    )  # fmt: skip
    await asyncio.sleep(0.05)
    stop.set()
    await asyncio.wait_for(listening, 5)
    assert deaf.left == 0


class Drains:
    """Drains that end when they are told to, one after another."""

    def __init__(self, plane: Plane) -> None:
        self.settings, self.stop = plane.settings, asyncio.Event()
        self.begun, self.may_end = 0, asyncio.Event()

    async def drain(self, _run_id: uuid.UUID) -> Drained:
        before, self.begun = self.begun, self.begun + 1
        await self.may_end.wait()
        await asyncio.sleep(0.2 * before)
        return Drained.EMPTY

    def listen(self, queue: Queue) -> asyncio.Task[None]:
        bell = Bell(cast(Drainer, self), queue, slots=asyncio.Semaphore(2), concurrency=2)
        return asyncio.create_task(bell.listen())


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    """Every worker of arq that a bell has made."""
    made: list[Worker] = []
    make = Bell._worker

    def noted(bell: Bell) -> Worker:
        made.append(make(bell))
        return made[-1]

    monkeypatch.setattr(Bell, "_worker", noted)
    return made


async def connected(made: list[Worker]) -> int:
    """How many connections are left once every job has ended."""
    for worker in made:
        await asyncio.gather(*worker.tasks.values(), return_exceptions=True)
    pools: list[Any] = [worker.pool.connection_pool for worker in made]
    return sum(
        each.is_connected for pool in pools for each in [*pool._available_connections, *pool._in_use_connections]
    )


async def test_a_ring_that_is_heard_while_the_bell_ends_leaves_no_connection_behind(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, made: list[Worker]
) -> None:
    drains, pick = Drains(plane), Worker.start_jobs

    async def pick_slowly(worker: Worker, job_ids: list[bytes]) -> None:
        await pick(worker, job_ids[:1])
        drains.stop.set()
        await asyncio.sleep(0.05)  # the bell waits for the one job there is
        await pick(worker, job_ids[1:])
        drains.may_end.set()

    monkeypatch.setattr(Worker, "start_jobs", pick_slowly)
    await plane.queue.wake(uuid.uuid4(), jobs=2)
    await asyncio.wait_for(drains.listen(plane.queue), 10)
    assert await connected(made) == 0


async def test_a_job_that_outlives_the_trouble_with_redis_leaves_no_connection_behind(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, made: list[Worker]
) -> None:
    drains, beat = Drains(plane), Worker.heart_beat

    async def fail_once(worker: Worker) -> None:
        if worker is made[0] and drains.begun:
            raise RedisAway
        await beat(worker)

    monkeypatch.setattr(Worker, "heart_beat", fail_once)
    await plane.queue.wake(uuid.uuid4(), jobs=1)
    listening = drains.listen(plane.queue)
    async with asyncio.timeout(10):
        while len(made) < 2:
            await asyncio.sleep(0.01)
        drains.may_end.set()
        drains.stop.set()
        await listening
    assert await connected(made) == 0


@pytest.mark.parametrize(("at_work", "looks"), [(0, 5), (1, 1)])
async def test_a_worker_that_has_a_job_looks_for_another_less_often(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, at_work: int, looks: int
) -> None:
    looked = 0

    async def look(_worker: Worker) -> None:
        nonlocal looked
        looked += 1

    monkeypatch.setattr(Worker, "_poll_iteration", look)
    drainer = Drainer(plane.db, plane.settings, uuid.uuid4(), asyncio.Event(), plane.queue.hints)
    listener = Bell(drainer, plane.queue, slots=asyncio.Semaphore(1), concurrency=1)._worker()
    listener.job_counter = at_work
    for _ in range(5):
        await listener._poll_iteration()
    assert looked == looks
    await listener.pool.aclose(close_connection_pool=True)
