"""Where schedules are played: PostgreSQL, Valkey, a proxy for each process, an API and two workers that are kept alive."""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx
from pydantic import SecretStr

from opsplane import migrate
from opsplane.auth.capabilities import Capability
from opsplane.config import Settings
from opsplane.db import Database
from opsplane.queue import Queue
from opsplane.runbooks.service import Plane
from opsplane.tenants import universe
from tests import web
from tests.faults import recorder, servers
from tests.faults.control import Control
from tests.faults.proxy import Proxy, Weather
from tests.faults.servers import Child
from tests.faults.supervisor import Exit, Kept

RUNBOOKS = Path(__file__).parent / "runbooks"
DUMP = Path(__file__).parent / "dump"
TENANTS = 12
WORKERS = ("worker-1", "worker-2")
API = "api"
MARKS = "platform.runbooks.test.marks"  # of runbooks/marks.py, which only the processes of a stand load
QUICK = {"OPSPLANE_LEASE_S": "2", "OPSPLANE_SWEEP_S": "0.5"}
READY_S = 180.0
migrating = asyncio.Lock()  # alembic knows one migration a process


@dataclass
class Stand:
    """Everything that a fault may hit."""

    home: Path
    postgres: Child
    valkey: Child
    control: Control
    proxies: dict[str, Proxy]
    kept: dict[str, Kept]
    url: str
    token: str
    redis_url: str
    tenants: list[str]
    exits: list[Exit]
    longest_s: float
    locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    def lock(self, name: str) -> asyncio.Lock:
        """Faults of the same thing wait for each other."""
        return self.locks.setdefault(name, asyncio.Lock())

    def spell(self, dice: Random, *seconds: float) -> float:
        """How long something lasts; the dice are thrown alike on every stand."""
        return min(dice.choice(seconds), self.longest_s)

    async def ready(self) -> None:
        """Wait until the API serves and both workers are at work."""
        async with asyncio.timeout(READY_S), httpx.AsyncClient(timeout=5) as client:
            while not await self._serves(client):
                await asyncio.sleep(0.2)

    async def _serves(self, client: httpx.AsyncClient) -> bool:
        pids = [self.kept[name].pid for name in WORKERS]
        beats = await self.control.value(
            "SELECT count(DISTINCT pid) FROM processes WHERE pid = ANY($1) AND kind = 'worker'", pids
        )
        with contextlib.suppress(httpx.TransportError):
            return beats == len(WORKERS) and (await client.get(f"{self.url}/readyz")).status_code == 200
        return False

    async def dump(self) -> None:
        """Have every process say in its log where it is."""
        for kept in self.kept.values():
            kept.send(signal.SIGUSR1)
        await asyncio.sleep(1)

    def clear(self) -> None:
        """Let everything flow again that may have been left standing."""
        for proxy in self.proxies.values():
            proxy.weather = Weather()
        for kept in self.kept.values():
            kept.send(signal.SIGCONT)


@asynccontextmanager
async def opened(*, quick: bool = False) -> AsyncIterator[Stand]:
    """A stand of its own, gone without a trace in the end."""
    home = Path(tempfile.mkdtemp(prefix="opsplane-faults-"))
    async with contextlib.AsyncExitStack() as held:
        held.callback(shutil.rmtree, home, ignore_errors=True)
        postgres, valkey = await asyncio.to_thread(servers.make_postgres, home), servers.make_valkey(home)
        for child, how in ((postgres, signal.SIGQUIT), (valkey, signal.SIGKILL)):
            held.push_async_callback(_end, child, how)
            await child.start()
        proxies = {name: Proxy(postgres.server.socket) for name in (API, *WORKERS)}
        for proxy in proxies.values():
            await proxy.open()
            held.push_async_callback(proxy.close)
        settings = _settings(home, postgres, valkey)
        token, tenants = await _furnish(settings)
        control = Control(postgres.server.url)
        held.push_async_callback(control.close)
        await control.script(recorder.SCHEMA)
        port = _free_port()
        exits: list[Exit] = []
        kept = _kept(settings, proxies, port, exits, QUICK if quick else {})
        stand = Stand(
            home, postgres, valkey, control, proxies, kept, f"http://127.0.0.1:{port}", token, valkey.server.url,
            tenants, exits, longest_s=2 if quick else 60,
        )  # fmt: skip
        for each in kept.values():
            each.begin()
            held.push_async_callback(each.end)
        await stand.ready()
        yield stand


async def _end(child: Child, how: signal.Signals) -> None:
    if child.process is not None and child.process.poll() is None:
        os.kill(child.pid, signal.SIGCONT)
        await child.end(how)


def _settings(home: Path, postgres: Child, valkey: Child) -> Settings:
    return Settings(
        database_url=postgres.server.url, redis_url=valkey.server.url, home=home, runbooks_dir=RUNBOOKS,
        secret_key=SecretStr(secrets.token_urlsafe(32)),
    )  # fmt: skip


async def _furnish(settings: Settings) -> tuple[str, list[str]]:
    """A schema, tenants, and somebody who may start everything."""
    async with migrating:
        await migrate.upgrade(settings)
    plane = Plane(Database(settings), Queue(settings), settings)
    names = [f"tenant-{number:02}" for number in range(1, TENANTS + 1)]
    async with plane.db.transaction() as tx:
        workspace = await universe.workspace_id(tx.session)
        for name in names:
            await universe.add(tx.session, workspace, name)
    rights = (*Capability, MARKS)
    token = await web.token(plane, await web.platform_user(plane, *rights), *rights)
    await plane.queue.close()
    await plane.db.close()
    return token, names


def _kept(
    settings: Settings, proxies: dict[str, Proxy], port: int, exits: list[Exit], extra: dict[str, str]
) -> dict[str, Kept]:
    assert settings.secret_key is not None
    environment = {
        "OPSPLANE_REDIS_URL": settings.redis_url or "",
        "OPSPLANE_HOME": str(settings.home),
        "OPSPLANE_SECRET_KEY": settings.secret_key.get_secret_value(),
        "OPSPLANE_RUNBOOKS_DIR": str(RUNBOOKS),
        "OPSPLANE_REQUESTS_PER_MINUTE": "1000000",
        "OPSPLANE_LOG_FORMAT": "json",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(DUMP), os.environ.get("PYTHONPATH")))),
        **extra,
    }

    def kept(name: str, *arguments: str) -> Kept:
        database = f"postgresql://postgres@127.0.0.1:{proxies[name].port}/opsplane?sslmode=disable"
        return Kept(
            name, arguments, environment | {"OPSPLANE_DATABASE_URL": database}, settings.home / f"{name}.log", exits
        )

    made = [kept(API, "serve", "--port", str(port)), *(kept(name, "worker") for name in WORKERS)]
    return {each.name: each for each in made}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
