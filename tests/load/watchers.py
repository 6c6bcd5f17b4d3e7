"""`python -m tests.load.watchers --watchers 200`: how long after a commit do those who watch a busy run see it?

The run is worked on by a real worker. The harness commits marks to its row and notes the time right after
each commit; it hints at the run as often as the busiest worker would, so that most marks wait for their hint.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import update

from opsplane.config import Settings
from opsplane.runs.models import OperationRun
from tests import support
from tests.load import stand
from tests.load.stand import Stand

HINT_EVERY_S = 0.02
GOAL_MS = 250


@dataclass
class Measured:
    """Delays of every mark at every watcher, and what the server used meanwhile."""

    delays_ms: list[float]
    unseen: int
    ended: int
    cpu: float
    rss_before: int
    rss_after: int

    def report(self) -> str:
        """The figures as lines of text."""
        cuts = statistics.quantiles(self.delays_ms, n=100)
        per_stream = (self.rss_after - self.rss_before) / 1024
        return (
            f"{len(self.delays_ms)} sightings, {self.unseen} missing, {self.ended} streams ended early\n"
            f"commit to arrival: p50 {cuts[49]:.0f} ms, p95 {cuts[94]:.0f} ms, p99 {cuts[98]:.0f} ms, "
            f"max {max(self.delays_ms):.0f} ms (goal: p99 <= {GOAL_MS} ms)\n"
            f"server: {self.cpu:.0%} of a core, {self.rss_after >> 20} MiB RSS, "
            f"{per_stream:.0f} KiB more than before the watchers; load average {os.getloadavg()[0]:.1f}"
        )


def main() -> int:
    """Measure once and print it."""
    given = _arguments()
    with tempfile.TemporaryDirectory(prefix="opsplane-load-") as home, stand.servers(Path(home)) as settings:
        measured = asyncio.run(_measure(settings, given))
    sys.stdout.write(f"{given.watchers} watchers of a run over {given.tenants} tenants, {given.seconds:.0f} s\n")
    sys.stdout.write(measured.report() + "\n")
    return 0 if not measured.unseen and statistics.quantiles(measured.delays_ms, n=100)[98] <= GOAL_MS else 1


async def _measure(settings: Settings, given: argparse.Namespace) -> Measured:
    async with stand.opened(settings, tenants=given.tenants) as found:
        rss_before = found.server.memory_info().rss
        async with stand.crowd(found, given.watchers) as clients:
            used, began = sum(found.server.cpu_times()[:2]), time.monotonic()
            marks = await _mark(found, seconds=given.seconds)
            cpu = (sum(found.server.cpu_times()[:2]) - used) / (time.monotonic() - began)
            run = await support.show(found.plane, found.run_id)
            assert run.status == "running", f"the run is {run.status}: give it more tenants"
            out, _ = await asyncio.to_thread(clients.communicate, "")
        rss_after = found.server.memory_info().rss
    return _judged(marks, json.loads(out), cpu=cpu, rss_before=rss_before, rss_after=rss_after)


async def _mark(found: Stand, *, seconds: float) -> list[float]:
    """Commit numbered marks; when each was committed."""
    noise = asyncio.create_task(_hint_all_the_time(found))
    marks: list[float] = []
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        async with found.plane.db.transaction() as tx:
            mark = f"m{len(marks)}"
            await tx.session.execute(update(OperationRun).where(OperationRun.id == found.run_id).values(release=mark))
        marks.append(time.monotonic())
        found.plane.queue.hints.changed(found.run_id)
        await asyncio.sleep(random.uniform(0.1, 0.5))
    await asyncio.sleep(2)
    noise.cancel()
    return marks


async def _hint_all_the_time(found: Stand) -> None:
    while True:
        found.plane.queue.hints.changed(found.run_id)
        await asyncio.sleep(HINT_EVERY_S)


def _judged(marks: list[float], told: dict[str, Any], *, cpu: float, rss_before: int, rss_after: int) -> Measured:
    delays, unseen = [], 0
    for seen in told["seen"]:
        sightings = iter(seen)
        latest = next(sightings, None)
        for number, committed_at in enumerate(marks):
            while latest is not None and latest[0] < number:  # a newer mark shows an older one as well
                latest = next(sightings, None)
            if latest is None:
                unseen += 1
            else:
                delays.append((latest[1] - committed_at) * 1000)
    return Measured(delays, unseen, told["ended"], cpu, rss_before, rss_after)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.load.watchers", description="Delays of live streams.")
    parser.add_argument("--watchers", type=int, default=200)
    parser.add_argument("--tenants", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=30)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
