"""A PostgreSQL and a Valkey of our own in a private folder, on Unix sockets only; durable, as they would be in use."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, Signals

import asyncpg

from opsplane.embedded import postgres, processes, valkey
from opsplane.embedded.rooms import Kind, Room
from opsplane.embedded.servers import Server

START_S = 60.0
# Only what keeps checkpoints out of a measurement and the data in memory; all else is PostgreSQL's default.
TUNED = {"shared_buffers": "1GB", "max_wal_size": "16GB", "checkpoint_timeout": "1h", "track_io_timing": "off"}


@dataclass(frozen=True)
class Servers:
    """Where they answer, and where everything of this measurement lies."""

    home: Path
    postgres: Server
    redis_url: str

    def url(self, database: str) -> str:
        """The address of one database."""
        return self.postgres.url.replace(f"/{postgres.DATABASE}?", f"/{database}?")

    async def connect(self, database: str) -> asyncpg.Connection:
        """A bare connection, without any limit of opsplane's."""
        return await asyncpg.connect(self.url(database))

    async def script(self, database: str, *statements: str) -> None:
        """Run statements one by one: some refuse to be in a transaction."""
        connection = await self.connect(database)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


@contextmanager
def running(home: Path) -> Iterator[Servers]:
    """Both servers, stopped in the end."""
    home.chmod(0o711 if os.geteuid() == 0 else 0o700)  # PostgreSQL runs as another account than root
    database = postgres.prepare(_room(home, Kind.POSTGRES), durable=True)
    queue = valkey.prepare(_room(home, Kind.VALKEY))
    flags = [part for name, value in TUNED.items() for part in ("-c", f"{name}={value}")]
    with ExitStack() as held:
        held.enter_context(_started(database, flags, home / "postgres.log"))
        held.enter_context(_started(queue, [], home / "valkey.log"))
        yield Servers(home, database, queue.url)


def _room(home: Path, kind: Kind) -> Room:
    room = Room(home, kind)
    room.prepare()
    return room


@contextmanager
def _started(server: Server, flags: list[str], log: Path) -> Iterator[None]:
    server.clear()
    with (
        log.open("ab") as out,
        subprocess.Popen(
            (*server.command, *flags), cwd=server.data, env=processes.ENVIRONMENT, umask=0o077,
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            **processes.as_account(server.account),
        ) as process,
    ):  # fmt: skip
        try:
            _await_ready(server, process, log)
            yield
        finally:
            process.send_signal(SIGINT if server.program == "postgres" else Signals.SIGTERM)
            process.wait()
            server.close()


def _await_ready(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + START_S
    while not server.ready(process.pid):
        if process.poll() is not None or time.monotonic() > ends:
            raise RuntimeError(f"{server.program} did not start: {log.read_text()[-500:]}")
        time.sleep(0.02)
