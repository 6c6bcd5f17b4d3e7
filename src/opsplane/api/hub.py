"""The hub of an API process: reads each watched run once for all who watch it, and hands everybody the newest."""

import asyncio
import contextlib
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import structlog
from fastapi.sse import format_sse_event
from prometheus_client import Gauge

from opsplane import hints
from opsplane.api.watched import Slot, Watched, wait
from opsplane.errors import OpsplaneError, ServiceUnavailable
from opsplane.runbooks.service import Plane
from opsplane.runs import figures, views

log = structlog.get_logger()

RECONNECT = format_sse_event(retry=2000)
COMPLETED = format_sse_event(event="end", data_str='{"code":"completed"}')
SIGNED_OUT = format_sse_event(event="end", data_str='{"code":"signed_out"}')
READ_SHARE, FIGURES_SHARE = 4, 20  # a run is read for at most 1/4 of the time, its figures for 1/20
LOOKS_AT_ONCE = 2
END_S = 2.0

T = TypeVar("T")
Look = Callable[[], Coroutine[Any, Any, dict[str, int] | None]]  # what to tell a watcher; None: nothing any more

open_streams = Gauge("opsplane_live_streams", "Open streams of runs.")


class TooManyStreams(ServiceUnavailable):
    """The process has as many streams open as it may."""

    code = "too_many_streams"

    def __init__(self) -> None:
        super().__init__("Too many live views are open; read the run every few seconds instead.")


@dataclass(frozen=True)
class Pace:
    """How often things happen; `again_s` is how long to trust that a hint would have come."""

    least_s: float = 0.1
    again_s: float = 2
    figures_s: float = 1
    tick_s: float = 10
    lifetime_s: float = 300
    max_streams: int = 1000


class Hub:
    """Every stream of this process, and a task for each run that is watched by any of them."""

    def __init__(self, plane: Plane, pace: Pace = Pace()) -> None:
        self._plane = plane
        self._pace = pace
        self._watched: dict[uuid.UUID, Watched] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._looking = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._streams = 0
        self._stopping = False

    @property
    def idle(self) -> bool:
        """Whether nobody watches and nothing is read."""
        return not self._watched and not self._tasks and self._streams == 0

    @asynccontextmanager
    async def watch(self, run_id: uuid.UUID) -> AsyncIterator[Slot]:
        """A slot that has the run's state already.

        Raises:
            RunNotFound: 404.
            TooManyStreams: 503.
        """
        with self._counted():
            slot, watched = Slot(), self._watched.get(run_id) or self._follow(run_id)
            watched.join(slot)
            try:
                await watched.read.wait()
                if watched.refusal is not None:
                    raise watched.refusal
                yield slot
            finally:
                watched.leave(slot)

    async def events(self, slot: Slot, look_again: Look) -> AsyncIterator[bytes]:
        """What is sent to one watcher, until the run, the right, the time of a stream or this process ends."""
        # Many come at once, as after a restart: what each of them does later must not be at once again.
        ends_at = time.monotonic() + self._pace.lifetime_s * _between(0.8, 1)
        tick_at = time.monotonic() + self._pace.tick_s * _between(0, 1)
        while True:
            over = slot.over  # before the events are taken, or the last one could be missed
            if news := slot.take():
                yield news
            now = time.monotonic()
            if over or self._stopping or now >= ends_at:
                yield COMPLETED if over else RECONNECT
                return
            if now >= tick_at:
                told = await self._undisturbed(look_again())
                if told is None:
                    yield SIGNED_OUT
                    return
                yield format_sse_event(event="tick", data_str=json.dumps({"at": datetime.now(UTC).isoformat(), **told}))
                tick_at = time.monotonic() + self._pace.tick_s
            await slot.wait(min(tick_at, ends_at) - now)

    def heard(self, run_id: uuid.UUID | None) -> None:
        """Take a hint; None means that some were missed."""
        for watched in self._watched.values() if run_id is None else filter(None, [self._watched.get(run_id)]):
            watched.hinted.set()

    def stop(self) -> None:
        """Send everybody away, to come back to another process."""
        self._stopping = True
        for watched in self._watched.values():
            for slot in watched.slots:
                slot.wake()

    async def close(self) -> None:
        """Wait for what is being read; nobody must be watching."""
        self.stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=END_S)
            for task in late:
                task.cancel()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        if self._streams >= self._pace.max_streams:
            raise TooManyStreams
        self._streams += 1
        open_streams.inc()
        try:
            yield
        finally:
            self._streams -= 1
            open_streams.dec()

    def _follow(self, run_id: uuid.UUID) -> Watched:
        watched = self._watched[run_id] = Watched(run_id)
        self._task(self._read_while_watched(watched))
        return watched

    async def _read_while_watched(self, watched: Watched) -> None:
        try:
            took = 0.0
            while watched.slots:
                watched.hinted.clear()
                before, began = took, time.monotonic()
                await self._read_safely(watched)
                took = time.monotonic() - began
                watched.read.set()
                if watched.refusal is not None or watched.over:
                    return  # at once: nobody may join a run of which nothing more will be told
                usual = min(took, before)  # a process that was busy for a moment is no large run
                await wait(watched.left, max(self._pace.least_s, READ_SHARE * usual) - took)
                await wait(watched.hinted, self._rest_s(watched))
        finally:
            del self._watched[watched.run_id]

    async def _read_safely(self, watched: Watched) -> None:
        """Read; what fails the first time is what the watchers are told, and later it is tried again."""
        try:
            await self._read(watched)
        except Exception as error:
            if not watched.read.is_set():
                watched.refusal = error
            elif not isinstance(error, OpsplaneError):
                log.exception("watched_run_not_read", run_id=str(watched.run_id))

    async def _read(self, watched: Watched) -> None:
        async with self._plane.db.reading() as session:
            run = await views.show(session, watched.run_id, base_url=self._plane.settings.base_url)
        ended = run.completed_at is not None
        if watched.publish("run", run.model_dump_json()) and watched.figures_due_at is None:
            watched.figures_due_at = watched.figures_not_before
        began = time.monotonic()
        if ended or (watched.figures_due_at is not None and began >= watched.figures_due_at):
            async with self._plane.db.reading() as session:
                drawn = await figures.show(session, watched.run_id)
            watched.publish("figures", drawn.model_dump_json())
            took = time.monotonic() - began
            watched.figures_due_at = None
            watched.figures_not_before = began + max(self._pace.figures_s, FIGURES_SHARE * took)
        if ended:
            watched.end()

    def _rest_s(self, watched: Watched) -> float:
        """How long to sleep if no hint comes."""
        if watched.figures_due_at is None:
            return self._pace.again_s
        return min(self._pace.again_s, watched.figures_due_at - time.monotonic())

    async def _undisturbed(self, look: Coroutine[Any, Any, T]) -> T:
        """Finish a look even if its watcher leaves: a cancelled call costs the database connection."""
        return await asyncio.shield(self._task(self._in_turn(look)))

    async def _in_turn(self, look: Coroutine[Any, Any, T]) -> T:
        async with self._looking:  # or a thousand looks would stand before the one read that all wait for
            return await look

    def _task(self, act: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(act)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


@asynccontextmanager
async def opened(plane: Plane, pace: Pace = Pace()) -> AsyncIterator[Hub]:
    """A hub and its one subscription."""
    redis_url = plane.settings.redis_url
    assert redis_url is not None, "no Redis is known yet"
    hub = Hub(plane, pace)
    listening = asyncio.create_task(hints.listen(redis_url, hub.heard))
    try:
        yield hub
    finally:
        await hub.close()
        listening.cancel()
        await asyncio.wait({listening})


def _between(least: float, most: float) -> float:
    return random.uniform(least, most)  # noqa: S311 - spreads load, guards nothing # nosec B311
