"""What a backfill does to the application's own transactions on the same table, ours and the script's.

`kind` is opsplane with the limit that an operator would set where transactions come first: it slows down while more
sessions of others are executing something than half of the machine's cores.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from bench import data, figures, oltp, script
from bench.asked import Bench
from bench.data import Shape
from bench.stand import AS_THEY_COME, BACKFILL, COPY

ALONE, SCRIPT, OPSPLANE, KIND = "alone", "script", "opsplane", "kind"
HALF_THE_CORES = {"OPSPLANE_THROTTLE_ACTIVE_CONNECTIONS": str(max(1, (os.cpu_count() or 1) // 2))}


@dataclass
class Seen:
    """By the neighbours, over all repeats."""

    per_s: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


async def measure(bench: Bench) -> None:
    """Alone, beside the script, beside opsplane; in turn, each on the same bytes."""
    shape = Shape(bench.asked.rows, bench.asked.tenants)
    seen = {name: Seen() for name in (ALONE, SCRIPT, OPSPLANE, KIND)}
    for _ in range(bench.asked.repeats):
        await _beside(bench, shape, seen[ALONE], lambda: asyncio.sleep(bench.asked.seconds))
        await _beside(bench, shape, seen[SCRIPT], lambda: script.repair(bench.stand.servers.url(COPY)))
        await _expect_repaired(bench)
        await _beside_opsplane(bench, shape, seen[OPSPLANE], AS_THEY_COME)
        await _beside_opsplane(bench, shape, seen[KIND], HALF_THE_CORES)
    _say(bench, seen)


def _say(bench: Bench, seen: dict[str, Seen]) -> None:
    bench.report.say(f"neighbours: {oltp.CONNECTIONS} connections that read and update single findings")
    alone = seen[ALONE]
    for name, its in seen.items():
        bench.report.keep("neighbours", contestant=name, **vars(its))
        loss = 1 - statistics.median(its.per_s) / statistics.median(alone.per_s)
        bench.report.say(
            f"  {name:9}{figures.spread(its.per_s, '/s', digits=0)}  p50 {statistics.median(its.p50_ms):.2f} ms, "
            f"p99 {figures.spread(its.p99_ms, 'ms')}  during {statistics.median(its.seconds):.1f} s: "
            f"loses {loss:.0%}, p99 x {figures.ratio(its.p99_ms, alone.p99_ms):.2f}"
        )
    bench.report.say("  (goal: its neighbours lose <= 15 %, p99 x <= 2)")


async def _beside(bench: Bench, shape: Shape, seen: Seen, work: Callable[[], Awaitable[object]]) -> None:
    await bench.stand.copy(shape)
    await _watched(bench, seen, work)


async def _beside_opsplane(bench: Bench, shape: Shape, seen: Seen, settings: Mapping[str, str]) -> None:
    await bench.stand.copy(shape)
    async with bench.stand.installed(shape, settings=settings) as installation:
        await _watched(bench, seen, lambda: installation.run(BACKFILL))
    await _expect_repaired(bench)


async def _watched(bench: Bench, seen: Seen, work: Callable[[], Awaitable[object]]) -> None:
    async with oltp.under_way(bench.stand.servers.url(COPY)) as load:
        begins = time.monotonic()
        await work()
        ends = time.monotonic()
    took_ms = load.within(begins, ends)
    seen.seconds.append(ends - begins)
    seen.per_s.append(len(took_ms) / (ends - begins))
    seen.p50_ms.append(figures.percentile(took_ms, 0.5))
    seen.p99_ms.append(figures.percentile(took_ms, 0.99))


async def _expect_repaired(bench: Bench) -> None:
    connection = await bench.stand.servers.connect(COPY)
    left = (await data.content(connection)).wrong
    await connection.close()
    if left:
        raise RuntimeError(f"{left} findings are still wrong")
