"""A worker process from its first heartbeat to its graceful end."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable

import structlog
from sqlalchemy import select

from opsplane.alerts import courier
from opsplane.db import new_id
from opsplane.errors import OpsplaneError
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane
from opsplane.runs import at_once, processes, sweeper
from opsplane.runs.drain import Drainer
from opsplane.runs.models import OperationRun
from opsplane.runs.states import Status
from opsplane.workers.bell import Bell

log = structlog.get_logger()

POLL_S = 1.0


async def work(plane: Plane, stop: asyncio.Event) -> None:
    """Work until `stop` is set; then finish the chunks in hand, give their tenants back and leave.

    Nothing is cancelled: a cancelled database call can leave its connection in an unknown state.
    """
    settings, me = plane.settings, new_id()
    prepare()
    slots = asyncio.Semaphore(settings.worker_concurrency)
    drainer = Drainer(plane.db, settings, me, stop, plane.queue.hints)
    bell = Bell(drainer, plane.queue, slots=slots, concurrency=settings.worker_concurrency)
    log.info("worker_started", worker=str(me), slots=settings.worker_concurrency)
    await asyncio.gather(
        processes.beat_until(stop, plane.db, me, kind=processes.WORKER, slots=settings.worker_concurrency),
        sweeper.sweep_until(stop, plane.db, plane.queue, settings),
        courier.deliver_until(stop, plane.db, settings),
        bell.listen(),
        _give_back(plane, drainer),
        *(_work_without_redis(plane, drainer, bell, slots) for _ in range(settings.worker_concurrency)),
    )
    for _ in range(settings.worker_concurrency):
        await slots.acquire()  # every drain holds a slot: none is cut off in the middle of a database call
    log.info("worker_stopped", worker=str(me))


def prepare() -> None:
    """Prepare all runbooks; what is wrong with one is for its runs to say."""
    for runbook in registry.every():
        try:
            runbook.prepare()
            at_once.prepare(runbook)
        except Exception:
            log.exception("runbook_not_prepared", runbook=runbook.key)


async def _give_back(plane: Plane, drainer: Drainer) -> None:
    """After trouble with the database, give back what this worker holds without working on it."""
    while not drainer.stop.is_set():
        if drainer.left_behind.is_set():
            await _quietly(_give_back_and_ring(plane, drainer))
        await _wait(drainer.stop, POLL_S)


async def _give_back_and_ring(plane: Plane, drainer: Drainer) -> None:
    for run_id in await drainer.give_back_left_behind():
        log.info("given_back", run_id=str(run_id))
        await plane.queue.wake(run_id)


async def _work_without_redis(plane: Plane, drainer: Drainer, bell: Bell, slots: asyncio.Semaphore) -> None:
    """While Redis is away, find runs in Postgres itself."""
    while not drainer.stop.is_set():
        if bell.deaf.is_set():
            await _quietly(_drain_active(plane, drainer, slots))
            if await plane.queue.is_up():
                bell.deaf.clear()
        await _wait(drainer.stop, POLL_S)


async def _drain_active(plane: Plane, drainer: Drainer, slots: asyncio.Semaphore) -> None:
    async with plane.db.reading() as session:
        active = await session.scalars(
            select(OperationRun.id).where(OperationRun.status.in_([Status.QUEUED, Status.RUNNING]))
        )
    for run_id in active.all():
        async with slots:
            await drainer.drain(run_id)


async def _quietly(act: Awaitable[object]) -> None:
    """One failed round must not end a loop; the database being away is logged where it is noticed."""
    try:
        await act
    except OpsplaneError:
        return
    except Exception:
        log.exception("worker_round_failed")


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; a second one of them ends the process at once."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def asked() -> None:
        if stop.is_set():
            sys.exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    return stop


def stop_with_parent(stop: asyncio.Event) -> None:
    """Stop when standard input closes: the parent holds its other end, and may be killed without a word."""
    loop = asyncio.get_running_loop()

    def readable() -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            loop.remove_reader(sys.stdin.fileno())
            stop.set()

    loop.add_reader(sys.stdin.fileno(), readable)
