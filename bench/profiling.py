"""Where the time of a drain goes: the worker's loop under the profiler, and what of it waits for the server."""

import asyncio
import cProfile
import io
import pstats
import time
import uuid

from bench.asked import Bench
from bench.data import Shape
from bench.stand import BACKFILL, NOTHING, RUNBOOKS
from opsplane.auth.actors import Actor
from opsplane.db import Database, new_id
from opsplane.queue import Queue
from opsplane.runbooks import registry, service
from opsplane.runbooks.service import Plane, Source, StartOrder
from opsplane.runs.drain import Drainer

SHOWN = 25
WAITING = ("epoll", "select.kqueue")


async def measure(bench: Bench) -> None:
    """The backfill, where the server has the work, and the empty runbook, where tracking is all there is."""
    shape = Shape(bench.asked.rows, bench.asked.tenants)
    registry.load(RUNBOOKS)
    for runbook, phrase in ((BACKFILL, "BACKFILL"), (NOTHING, "NOTHING")):
        await bench.stand.copy(shape)
        await _profile(bench, runbook, phrase)


async def _profile(bench: Bench, runbook: str, phrase: str) -> None:
    settings = bench.stand.settings_of_copy()
    plane = Plane(Database(settings), Queue(settings), settings)
    run_id = await _started(plane, runbook, phrase)
    drainer = Drainer(plane.db, settings, new_id(), asyncio.Event(), plane.queue.hints)
    profiler, began = cProfile.Profile(), time.perf_counter()
    profiler.enable()
    await drainer.drain(run_id)
    profiler.disable()
    took = time.perf_counter() - began
    await plane.queue.close()
    await plane.db.close()
    stats = pstats.Stats(profiler)
    waited = _waited(stats)
    bench.report.say(
        f"drain of {runbook}: {took:.2f} s under the profiler, {waited:.2f} s of it waiting for the server"
    )
    bench.report.keep("profile", runbook=runbook, seconds=took, waited=waited)
    for order in ("tottime", "cumulative"):
        bench.report.say(_table(profiler, order))


async def _started(plane: Plane, runbook: str, phrase: str) -> uuid.UUID:
    order = StartOrder(
        runbook=runbook, tenant=None, source=Source.CLI, reason=("DATA_REPAIR", "a measurement"), confirmation=phrase
    )
    return (await service.start(plane, order, by=Actor.shell("bench"))).run.id


def _waited(stats: pstats.Stats) -> float:
    """Time in the selector, where a loop is when nothing can go on."""
    rows: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = stats.stats  # type: ignore[attr-defined]
    return sum(row[2] for where, row in rows.items() if any(word in where[2] for word in WAITING))


def _table(profiler: cProfile.Profile, order: str) -> str:
    out = io.StringIO()
    stats = pstats.Stats(profiler, stream=out).strip_dirs().sort_stats(order)
    stats.print_stats(SHOWN)
    return "\n".join(line for line in out.getvalue().splitlines() if line.strip())
