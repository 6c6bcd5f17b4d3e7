"""The count before a run, over all findings, against the bare `GROUP BY`; with and without an index on the selector."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from sqlalchemy.dialects import postgresql

from bench import figures
from bench.asked import Bench
from bench.data import TENANTS, Shape
from bench.stand import BACKFILL, COPY, Installation
from opsplane.runbooks.library.findings_lifecycle import RebuildFindingsLifecycle

PATH = f"/system/ops/runbooks/{BACKFILL}/preflight"
TIMES = 10  # as many findings as the other measurements have: counting a million takes a moment
OPSPLANE, BARE, ESTIMATE = "opsplane", "bare", "estimate"
# The runbook's own selector as text, so that an index on it serves both.
WRONG = str(
    RebuildFindingsLifecycle().wrong().compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})  # type: ignore[no-untyped-call]
)
COUNT = f"SELECT tenant_id, count(*) FROM findings WHERE {WRONG} GROUP BY tenant_id"
INDEX = f"CREATE INDEX ix_findings_wrong ON findings (tenant_id, id) WHERE {WRONG}"


async def measure(bench: Bench) -> None:
    """In turn, on one copy that nothing is written to but preflights."""
    shape = Shape(bench.asked.rows * TIMES, bench.asked.tenants, slim=True)
    await bench.stand.copy(shape)
    async with bench.stand.installed(shape, workers=0) as installation:
        bench.report.say(f"preflight over {shape.rows:,} findings of {shape.tenants:,} tenants")
        await _measure(bench, shape, installation, "without an index")
        writer = await bench.stand.servers.connect(COPY)
        await writer.execute(INDEX)
        await writer.execute("VACUUM (ANALYZE) findings")
        await writer.close()
        await _measure(bench, shape, installation, "with an index on the selector")


async def _measure(bench: Bench, shape: Shape, installation: Installation, how: str) -> None:
    took: dict[str, list[float]] = {BARE: [], OPSPLANE: []}
    contests: dict[str, Callable[[], Awaitable[int]]] = {
        BARE: lambda: _bare(installation.db),
        OPSPLANE: lambda: _exact(installation),
    }
    for contest in contests.values():
        await contest()
    for _ in range(bench.asked.repeats):
        counted = set()
        for name, contest in contests.items():
            began = time.perf_counter()
            counted.add(await contest())
            took[name].append((time.perf_counter() - began) * 1000)
        if len(counted) != 1:
            raise RuntimeError(f"the counts differ: {counted}")
    bench.report.say(f"  {how}")
    for name, ones in took.items():
        bench.report.keep("preflight", contestant=name, how=how, ms=ones, findings=shape.rows)
        bench.report.say(f"    {name:9}{figures.spread(ones, 'ms', digits=1)}")
    ratio, noise = figures.ratio(took[OPSPLANE], took[BARE]), figures.noise(took[BARE])
    bench.report.say(f"    ratio {ratio:.2f} (goal <= 1.20); noise: the bare count's own slowest / fastest {noise:.2f}")
    await _say_estimate(bench, shape, installation, how)


async def _say_estimate(bench: Bench, shape: Shape, installation: Installation, how: str) -> None:
    """What is answered to somebody who does not insist on an exact count."""
    took, seen = list[float](), dict[str, Any]()
    for _ in range(bench.asked.repeats):
        began = time.perf_counter()
        seen = await installation.preflight(BACKFILL)
        took.append((time.perf_counter() - began) * 1000)
    if not seen.get("estimated"):
        bench.report.say("    no estimate is offered: counting is quick enough, or this release has none")
        return
    exact = await _exact(installation)
    off = abs(seen["affected_count"] - exact) / max(exact, 1)
    bench.report.keep("preflight", contestant=ESTIMATE, how=how, ms=took, findings=shape.rows, off=off)
    bench.report.say(f"    {ESTIMATE:9}{figures.spread(took, 'ms', digits=1)}  off by {off:.1%} (goal <= 50 ms)")


async def _bare(db: asyncpg.Connection) -> int:
    allowed = {row["id"] for row in await db.fetch(TENANTS)}
    return sum(row["count"] for row in await db.fetch(COUNT) if row["tenant_id"] in allowed)


async def _exact(installation: Installation) -> int:
    answer = await installation.client.post(PATH, {"exact": True})
    if answer.status == 422:  # a release that knows no estimates counts exactly without being asked
        answer = await installation.client.post(PATH, {})
    return int(answer.json()["affected_count"])
