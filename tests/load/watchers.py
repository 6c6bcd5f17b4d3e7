"""`python -m tests.load.watchers --watchers 200`: how long after a commit do those who watch a busy run see it?

The run is worked on by a real worker. The harness commits marks to its row and notes the time right after
each commit; it hints at the run as often as the busiest worker would, so that most marks wait for their hint.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from pydantic import SecretStr
from sqlalchemy import update

from opsplane import embedded, migrate
from opsplane.auth.actors import Actor
from opsplane.auth.capabilities import Capability
from opsplane.config import Settings
from opsplane.db import Database
from opsplane.queue import Queue
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane
from opsplane.runs.models import OperationRun
from opsplane.tenants import universe
from tests import support, web
from tests.conftest import RUNBOOKS
from tests.integration.test_processes import until

RIGHTS = (Capability.SYSTEM_ACCESS, Capability.OPS_VIEW)
SLOTS = 4
HINT_EVERY_S = 0.02
GOAL_MS = 250


@dataclass
class Stand:
    """What is measured: a server, a run that is worked on, a token that may watch it."""

    plane: Plane
    run_id: uuid.UUID
    address: str
    token: str
    server: psutil.Process


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
    with tempfile.TemporaryDirectory(prefix="opsplane-load-") as home, _servers(Path(home)) as settings:
        measured = asyncio.run(_measure(settings, given))
    sys.stdout.write(f"{given.watchers} watchers of a run over {given.tenants} tenants, {given.seconds:.0f} s\n")
    sys.stdout.write(measured.report() + "\n")
    return 0 if not measured.unseen and statistics.quantiles(measured.delays_ms, n=100)[98] <= GOAL_MS else 1


@contextmanager
def _servers(home: Path) -> Iterator[Settings]:
    with embedded.running(home / "servers", durable=True) as endpoints:
        yield Settings(
            database_url=endpoints.database_url, redis_url=endpoints.redis_url, home=home, runbooks_dir=RUNBOOKS,
            secret_key=SecretStr("a key of the measurement, of 32 characters or more"),
        )  # fmt: skip


async def _measure(settings: Settings, given: argparse.Namespace) -> Measured:
    async with _stand(settings, tenants=given.tenants) as stand:
        rss_before = stand.server.memory_info().rss
        with _watchers(stand, given.watchers) as clients:
            await asyncio.to_thread(_await_ready, clients)
            used, began = sum(stand.server.cpu_times()[:2]), time.monotonic()
            marks = await _mark(stand, seconds=given.seconds)
            cpu = (sum(stand.server.cpu_times()[:2]) - used) / (time.monotonic() - began)
            run = await support.show(stand.plane, stand.run_id)
            assert run.status == "running", f"the run is {run.status}: give it more tenants"
            out, _ = await asyncio.to_thread(clients.communicate, "")
        rss_after = stand.server.memory_info().rss
    return _judged(marks, json.loads(out), cpu=cpu, rss_before=rss_before, rss_after=rss_after)


async def _mark(stand: Stand, *, seconds: float) -> list[float]:
    """Commit numbered marks; when each was committed."""
    noise = asyncio.create_task(_hint_all_the_time(stand))
    marks: list[float] = []
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        async with stand.plane.db.transaction() as tx:
            mark = f"m{len(marks)}"
            await tx.session.execute(update(OperationRun).where(OperationRun.id == stand.run_id).values(release=mark))
        marks.append(time.monotonic())
        stand.plane.queue.hints.changed(stand.run_id)
        await asyncio.sleep(random.uniform(0.1, 0.5))
    await asyncio.sleep(2)
    noise.cancel()
    return marks


async def _hint_all_the_time(stand: Stand) -> None:
    while True:
        stand.plane.queue.hints.changed(stand.run_id)
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


@asynccontextmanager
async def _stand(settings: Settings, *, tenants: int) -> AsyncIterator[Stand]:
    await migrate.upgrade(settings)
    registry.load(RUNBOOKS)
    plane = Plane(Database(settings), Queue(settings), settings)
    token = await _furnish(plane, tenants)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with _opsplane(settings, "serve", "--port", str(port)) as server, _opsplane(settings, "worker"):
        address = f"http://127.0.0.1:{port}"
        await until(lambda: _answers(f"{address}/readyz"))
        run = (await support.start(plane, Actor.shell("load"), "test.effects.slow")).run
        await until(lambda: _under_way(plane, run.id))
        yield Stand(plane, run.id, address, token, psutil.Process(server.pid))
    await plane.queue.close()
    await plane.db.close()


async def _under_way(plane: Plane, run_id: uuid.UUID) -> bool:
    return (await support.show(plane, run_id)).context.updated_count > 0


async def _furnish(plane: Plane, tenants: int) -> str:
    async with plane.db.transaction() as tx:
        workspace = await universe.workspace_id(tx.session)
        for number in range(tenants):
            await universe.add(tx.session, workspace, f"tenant-{number:04}")
        connection = await tx.session.connection()
        await connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS effects (tenant_id uuid NOT NULL, n int NOT NULL)")
    return await web.token(plane, await web.platform_user(plane, *RIGHTS), *RIGHTS)


@contextmanager
def _opsplane(settings: Settings, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPSPLANE_")} | {
        "OPSPLANE_DATABASE_URL": settings.database_url or "",
        "OPSPLANE_REDIS_URL": settings.redis_url or "",
        "OPSPLANE_HOME": str(settings.home),
        "OPSPLANE_RUNBOOKS_DIR": str(RUNBOOKS),
        "OPSPLANE_REQUESTS_PER_MINUTE": "1000000",
        "OPSPLANE_WORKER_CONCURRENCY": str(SLOTS),
    }
    command = [sys.executable, "-m", "opsplane.cli.main", *arguments]
    log = (settings.home / f"{arguments[0]}.log").open("wb")
    with log, subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.terminate()


@contextmanager
def _watchers(stand: Stand, count: int) -> Iterator[subprocess.Popen[str]]:
    path = f"/system/ops/runs/{stand.run_id}/events"
    command = [sys.executable, "-m", "tests.load.client", stand.address, path, stand.token, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _await_ready(clients: subprocess.Popen[str]) -> None:
    assert clients.stdout is not None
    assert clients.stdout.readline() == "ready\n", "not every watcher was let in"


async def _answers(url: str) -> bool:
    async with httpx.AsyncClient() as client:
        with contextlib.suppress(httpx.TransportError):
            return (await client.get(url)).status_code == 200
    return False


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.load.watchers", description="Delays of live streams.")
    parser.add_argument("--watchers", type=int, default=200)
    parser.add_argument("--tenants", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=30)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
