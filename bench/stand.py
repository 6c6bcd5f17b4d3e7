"""An installation over one copy of the data: an API process and workers, warm, and a client that may start runs."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import asyncpg
import psutil
from pydantic import SecretStr

from bench import data
from bench.client import Client
from bench.data import Shape
from bench.servers import Servers
from opsplane import migrate
from opsplane.auth import tokens, users
from opsplane.auth.actors import Actor
from opsplane.auth.capabilities import Capability
from opsplane.config import Settings
from opsplane.db import Database

RUNBOOKS = Path(__file__).parent / "runbooks"
BACKFILL, NOTHING = "findings.lifecycle.backfill", "bench.nothing"
PHRASES = {BACKFILL: "BACKFILL", NOTHING: "NOTHING"}
RIGHTS = frozenset({*Capability, "platform.runbooks.bench.nothing"})
READY_S = 60.0
LONGEST_RUN_S = 3600.0
POLL_S = 0.1  # the end is read from the run itself
COPY = "measured"
AS_THEY_COME: Mapping[str, str] = MappingProxyType({})
SECRET = "a key of the measurement, of 32 characters or more"  # noqa: S105 - nothing is kept with it


@dataclass
class Took:
    """A run from the request that starts it: until that was answered, and until the run was completed."""

    accepted_s: float
    seconds: float
    updated: int


@dataclass
class Installation:
    """What a measurement talks to."""

    address: str
    token: str
    client: Client
    db: asyncpg.Connection
    server: psutil.Process
    workers: list[psutil.Process]

    async def preflight(self, runbook: str, **body: Any) -> dict[str, Any]:
        """Look first, as an operator would."""
        answer = await self.client.post(f"/system/ops/runbooks/{runbook}/preflight", body)
        document: dict[str, Any] = answer.json()
        return document

    async def run(self, runbook: str) -> Took:
        """Look, then start over all tenants, and wait until the run is completed in the database.

        Raises:
            RuntimeError: it was refused, or did not succeed.
        """
        seen = await self.preflight(runbook)
        order = {
            "preflight_id": seen["preflight_id"],
            "confirmation": PHRASES[runbook],
            "reason": {"code": "DATA_REPAIR", "text": "a measurement"},
        }
        began, began_at = time.perf_counter(), time.time()
        started = (await self.client.post(f"/system/ops/runbooks/{runbook}/start", order)).json()
        accepted_s = time.perf_counter() - began
        ended_at, updated = await self._ended(started["id"])
        return Took(accepted_s, ended_at - began_at, updated)

    async def _ended(self, run_id: str) -> tuple[float, int]:
        row = None
        ends = time.monotonic() + LONGEST_RUN_S
        while row is None:
            if time.monotonic() > ends:
                raise RuntimeError(f"the run {run_id} does not end")
            await asyncio.sleep(POLL_S)
            row = await self.db.fetchrow(
                "SELECT outcome, completed_at, summary_counts FROM operation_runs "
                "WHERE id = $1::text::uuid AND status = 'completed'", run_id,
            )  # fmt: skip
        if row["outcome"] != "succeeded":
            raise RuntimeError(f"the run {run_id} has {row['outcome']}")
        return row["completed_at"].timestamp(), json.loads(row["summary_counts"]).get("updated", 0)


@dataclass
class Stand:
    """Servers, and the templates made on them so far."""

    servers: Servers
    tokens: dict[str, str] = field(default_factory=dict)

    async def template(self, shape: Shape) -> str:
        """The database with this much data, made once; its name."""
        name = shape.template
        if name not in self.tokens:
            await self.servers.script("postgres", f"CREATE DATABASE {name}")
            self.tokens[name] = await _furnish(self._settings(name))
            connection = await self.servers.connect(name)
            await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_prewarm")
            await data.fill(connection, shape)
            await connection.close()
        return name

    async def copy(self, shape: Shape) -> str:
        """A fresh copy of the data, byte by byte, warm and right after a checkpoint; its address."""
        return await self.copy_of(await self.template(shape))

    async def copy_of(self, database: str) -> str:
        """The same of any database."""
        await self.duplicate(database, COPY)
        await self.servers.script(COPY, _PREWARM, "CHECKPOINT")
        return self.servers.url(COPY)

    async def duplicate(self, database: str, name: str) -> None:
        """A database like another one, instead of whatever had its name."""
        await self.servers.script(
            "postgres",
            f"DROP DATABASE IF EXISTS {name} WITH (FORCE)",
            f"CREATE DATABASE {name} TEMPLATE {database} STRATEGY file_copy",
        )

    @asynccontextmanager
    async def installed(
        self, shape: Shape, *, workers: int = 2, notes: Path | None = None, settings: Mapping[str, str] = AS_THEY_COME
    ) -> AsyncIterator[Installation]:
        """Processes over the copy made last, with these settings; workers leave chunk times in the folder `notes`."""
        forget_messages(self.servers.redis_url)
        environment = self.environment() | dict(settings)
        port = free_port()
        with contextlib.ExitStack() as held:
            serve = module("opsplane.cli.main", "serve", "--port", port)
            server = held.enter_context(process(serve, environment, self.servers.home / "serve.log"))
            hands = [
                held.enter_context(process(_worker(notes, number), environment, self.servers.home / "worker.log"))
                for number in range(workers)
            ]
            db = await self.servers.connect(COPY)
            await _ready(port, db, workers)
            token = self.tokens[shape.template]
            client = await Client.connected(f"http://127.0.0.1:{port}", token)
            found = Installation(
                f"http://127.0.0.1:{port}", token, client, db, psutil.Process(server.pid),
                [psutil.Process(hand.pid) for hand in hands],
            )  # fmt: skip
            if workers:
                await found.run(NOTHING)  # connections, caches and plans are those of workers that have worked before
            yield found
            client.close()
            await db.close()

    def settings_of_copy(self) -> Settings:
        """For those who work on the copy made last within this process."""
        return self._settings(COPY)

    def _settings(self, database: str) -> Settings:
        return Settings(
            database_url=self.servers.url(database), redis_url=self.servers.redis_url, home=self.servers.home,
            runbooks_dir=RUNBOOKS, secret_key=SecretStr(SECRET),
        )  # fmt: skip

    def environment(self) -> dict[str, str]:
        """Of a process over the copy made last: every setting is as it comes but these."""
        return {name: value for name, value in os.environ.items() if not name.startswith("OPSPLANE_")} | {
            "OPSPLANE_DATABASE_URL": self.servers.url(COPY),
            "OPSPLANE_REDIS_URL": self.servers.redis_url,
            "OPSPLANE_HOME": str(self.servers.home),
            "OPSPLANE_SECRET_KEY": SECRET,
            "OPSPLANE_RUNBOOKS_DIR": str(RUNBOOKS),
            "OPSPLANE_REQUESTS_PER_MINUTE": "1000000",
        }


_PREWARM = """
    SELECT sum(pg_prewarm(c.oid)) FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'i') AND c.relfilenode <> 0"""


async def _furnish(settings: Settings) -> str:
    """The schema, and somebody who may do everything; their token."""
    await migrate.upgrade(settings)
    db = Database(settings)
    async with db.transaction() as tx:
        user = await users.create(tx.session, "bench@ops.test")
        await users.grant(tx.session, user, RIGHTS)
        minted = await tokens.mint(
            tx.session, user, name="bench", capabilities=RIGHTS, days=90, by=Actor.shell("bench")
        )
    await db.close()
    return minted.secret


def _worker(notes: Path | None, number: int) -> list[str]:
    if notes is None:
        return module("opsplane.cli.main", "worker")
    return module("bench.worker", notes / f"worker-{number}.json")


async def until_ready(process: asyncio.subprocess.Process) -> None:
    """Wait for the line with which our programs say that they are at work.

    Raises:
        RuntimeError: it ended before.
    """
    assert process.stdout is not None
    if await process.stdout.readline() != b"ready\n":
        raise RuntimeError("a program of the measurement ended early")


def module(name: str, *arguments: object) -> list[str]:
    """The command that runs a module."""
    return [sys.executable, "-m", name, *map(str, arguments)]


@contextlib.contextmanager
def process(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program at work, ended in the end."""
    with (
        log.open("ab") as out,
        subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out) as started,
    ):
        try:
            yield started
        finally:
            started.terminate()


async def _ready(port: int, db: asyncpg.Connection, workers: int) -> None:
    alive = "SELECT count(*) FROM processes WHERE kind = 'worker' AND seen_at > clock_timestamp() - interval '10 s'"
    async with asyncio.timeout(READY_S):
        while not await answers(port) or await db.fetchval(alive) < workers:
            await asyncio.sleep(0.05)


async def answers(port: int) -> bool:
    """Whether a server there says that it is ready."""
    try:
        client = await Client.connected(f"http://127.0.0.1:{port}", "")
        return (await client.get("/readyz")).status == 200
    except (OSError, asyncio.IncompleteReadError):
        return False


def forget_messages(redis_url: str) -> None:
    """What another installation has left in the queue."""
    path = redis_url.removeprefix("unix://").split("?")[0]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as queue:
        queue.connect(path)
        queue.sendall(b"*1\r\n$8\r\nFLUSHALL\r\n")
        queue.recv(64)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
