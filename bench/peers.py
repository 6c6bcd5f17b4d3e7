"""The same backfill by TaskIQ, Celery and Prefect, with a row for the run and for each tenant, beside opsplane's.

Their packages are installed into environments of their own under `.bench/`, by pip as it is set up on this machine.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from bench import backfill, figures, stand
from bench.asked import Bench
from bench.crew import work
from bench.data import Shape
from bench.servers import Servers
from bench.stand import COPY

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".bench"
RUN = 1
LONGEST_S = 1800.0


@dataclass(frozen=True)
class Peer:
    """What to install, and which programs work; the one who starts runs is `bench.crew.by_NAME`."""

    name: str
    packages: tuple[str, ...]
    workers: tuple[str, ...]

    @property
    def bin(self) -> Path:
        """Its programs."""
        return CACHE / self.name / "bin"

    def install(self) -> None:
        """Once."""
        if (CACHE / self.name / "installed").exists():
            return
        subprocess.run([sys.executable, "-m", "venv", "--clear", CACHE / self.name], check=True)
        subprocess.run([self.bin / "pip", "install", "-qq", "asyncpg", *self.packages], check=True)
        (CACHE / self.name / "installed").touch()

    def version(self) -> str:
        """Of its package."""
        show = f"import importlib.metadata as m; print(m.version({self.name!r}))"
        return subprocess.run(
            [self.bin / "python", "-c", show], check=True, capture_output=True, text=True
        ).stdout.strip()


PEERS = (
    Peer(
        "taskiq", ("taskiq", "taskiq-redis"),
        ("taskiq", "worker", "bench.crew.by_taskiq:broker", "--workers", "2",
         "--max-async-tasks", str(work.AT_ONCE), "--log-level", "ERROR"),
    ),
    Peer(
        "celery", ("celery[redis]", "psycopg[binary]"),
        ("celery", "-A", "bench.crew.by_celery", "worker", "-c", "2", "-P", "prefork", "-l", "ERROR",
         "--without-gossip", "--without-mingle"),
    ),
    Peer(
        "prefect", ("prefect", "fastapi<0.142", "psycopg[binary]"),  # later ones lack an argument that it names
        ("prefect", "server", "start", "--port", "{port}"),
    ),
)  # fmt: skip


async def measure(bench: Bench) -> None:
    """In turn, each on the same bytes: opsplane, then the others."""
    for peer in PEERS:
        await asyncio.to_thread(peer.install)
    shape = Shape(bench.asked.rows, bench.asked.tenants)
    seconds: dict[str, list[float]] = {"opsplane": [], **{peer.name: [] for peer in PEERS}}
    for _ in range(bench.asked.repeats):
        _, took, _ = await backfill.by_opsplane(bench, shape)
        seconds["opsplane"].append(took)
        for peer in PEERS:
            seconds[peer.name].append(await _by(peer, bench, shape))
    bench.report.say(f"peers: backfill of {shape.rows:,} findings of {shape.tenants:,} tenants, tracked by tenant")
    versions = {peer.name: peer.version() for peer in PEERS}
    for name, its in seconds.items():
        bench.report.keep("peers", contestant=name, seconds=its, version=versions.get(name))
        ratio = figures.ratio(its, seconds["opsplane"])
        bench.report.say(f"  {name:9}{versions.get(name, ''):8}{figures.spread(its)}  {ratio:.2f} x opsplane")


async def _by(peer: Peer, bench: Bench, shape: Shape) -> float:
    """From the order to start until the run is completed in the database."""
    await bench.stand.copy(shape)
    await bench.stand.servers.script(COPY, work.SCHEMA)
    stand.forget_messages(bench.stand.servers.redis_url)
    db = await bench.stand.servers.connect(COPY)
    async with _started(peer, bench.stand.servers) as starter:
        await _ended(starter, db, work.WARM_UP)
        began = time.time()
        seconds = await _ended(starter, db, RUN) - began
    await db.close()
    left = await backfill.content_of_copy(bench)
    if left.wrong:
        raise RuntimeError(f"{peer.name} has left {left.wrong} findings wrong")
    return seconds


async def _ended(starter: asyncio.subprocess.Process, db: asyncpg.Connection, run: int) -> float:
    assert starter.stdin is not None
    starter.stdin.write(f"{run}\n".encode())
    async with asyncio.timeout(LONGEST_S):
        while (ended := await db.fetchval("SELECT finished_at FROM crew_run WHERE id = $1", run)) is None:
            if starter.returncode is not None:
                raise RuntimeError("the program that starts runs has ended")
            await asyncio.sleep(stand.POLL_S)
    return float(ended.timestamp())


@asynccontextmanager
async def _started(peer: Peer, servers: Servers) -> AsyncIterator[asyncio.subprocess.Process]:
    port = stand.free_port()
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "BENCH_DATABASE_URL": servers.url(COPY),
        "BENCH_REDIS_URL": servers.redis_url,
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_HOME": str(servers.home / "prefect"),
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    program, *arguments = (part.format(port=port) for part in peer.workers)
    log = servers.home / f"{peer.name}.log"
    with stand.process([str(peer.bin / program), *arguments], environment, log), log.open("ab") as out:
        if peer.name == "prefect":
            await _listens(port)
        starter = await asyncio.create_subprocess_exec(
            peer.bin / "python", "-m", f"bench.crew.by_{peer.name}", env=environment,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=out,
        )  # fmt: skip
        try:
            await stand.until_ready(starter)
            yield starter
        except RuntimeError as error:
            raise RuntimeError(f"{peer.name}: {error}: {log.read_text()[-2000:]}") from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                starter.terminate()
            await starter.wait()


async def _listens(port: int) -> None:
    async with asyncio.timeout(stand.READY_S * 3):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.1)
