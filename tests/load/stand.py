"""A server and a worker as processes of their own, over a run that they are busy with."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from pydantic import SecretStr
from sqlalchemy import text

from opsplane import embedded, migrate
from opsplane.auth.actors import Actor
from opsplane.auth.capabilities import Capability
from opsplane.config import Settings
from opsplane.db import Database
from opsplane.queue import Queue
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane
from opsplane.tenants import universe
from tests import support, web
from tests.conftest import RUNBOOKS
from tests.integration.test_processes import until

RIGHTS = (Capability.SYSTEM_ACCESS, Capability.OPS_VIEW)
SLOTS = 4
TENANTS = """
    INSERT INTO tenants (id, workspace_id, external_id, name)
    SELECT gen_random_uuid(), :workspace, 'tenant-' || lpad(n::text, 5, '0'), 'Tenant ' || n
    FROM generate_series(1, CAST(:count AS int)) n
"""
OPERATOR = "load@ops.test"


@dataclass
class Stand:
    """What is measured: a server, a run that is worked on, a token that may watch it."""

    plane: Plane
    run_id: uuid.UUID
    address: str
    token: str
    server: psutil.Process


@contextmanager
def servers(home: Path) -> Iterator[Settings]:
    """PostgreSQL and Valkey for one measurement."""
    with embedded.running(home / "servers", durable=True) as endpoints:
        yield Settings(
            database_url=endpoints.database_url, redis_url=endpoints.redis_url, home=home, runbooks_dir=RUNBOOKS,
            secret_key=SecretStr("a key of the measurement, of 32 characters or more"),
        )  # fmt: skip


@asynccontextmanager
async def opened(settings: Settings, *, tenants: int) -> AsyncIterator[Stand]:
    """A server and a worker at work on a run over so many tenants."""
    await migrate.upgrade(settings)
    registry.load(RUNBOOKS)
    plane = Plane(Database(settings), Queue(settings), settings)
    token = await _furnish(plane, tenants)
    port = free_port()
    with opsplane(settings, "serve", "--port", str(port)) as server, opsplane(settings, "worker"):
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
        await tx.session.execute(text(TENANTS), {"workspace": workspace, "count": tenants})
        connection = await tx.session.connection()
        await connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS effects (tenant_id uuid NOT NULL, n int NOT NULL)")
    return await web.token(plane, await web.platform_user(plane, *RIGHTS, email=OPERATOR), *RIGHTS)


@contextmanager
def opsplane(settings: Settings, *arguments: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command as a process, ended in the end; `more` is environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPSPLANE_")} | {
        "OPSPLANE_DATABASE_URL": settings.database_url or "",
        "OPSPLANE_REDIS_URL": settings.redis_url or "",
        "OPSPLANE_HOME": str(settings.home),
        "OPSPLANE_SECRET_KEY": settings.secret_key.get_secret_value() if settings.secret_key else "",
        "OPSPLANE_RUNBOOKS_DIR": str(RUNBOOKS),
        "OPSPLANE_REQUESTS_PER_MINUTE": "1000000",
        "OPSPLANE_WORKER_CONCURRENCY": str(SLOTS),
        **more,
    }
    command = [sys.executable, "-m", "opsplane.cli.main", *arguments]
    log = (settings.home / f"{arguments[0]}.log").open("wb")
    with log, subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.terminate()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _answers(url: str) -> bool:
    async with httpx.AsyncClient() as client:
        with contextlib.suppress(httpx.TransportError):
            return (await client.get(url)).status_code == 200
    return False


@asynccontextmanager
async def crowd(found: Stand, count: int) -> AsyncIterator[subprocess.Popen[str]]:
    """So many watchers of the run in a process of their own; whoever closes its input is told what they saw."""
    path = f"/system/ops/runs/{found.run_id}/events"
    command = [sys.executable, "-m", "tests.load.client", found.address, path, found.token, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220
        try:
            await asyncio.to_thread(_await_ready, process)
            yield process
        finally:
            process.kill()


def _await_ready(clients: subprocess.Popen[str]) -> None:
    assert clients.stdout is not None
    assert clients.stdout.readline() == "ready\n", "not every watcher was let in"
