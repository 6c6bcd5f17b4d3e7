"""PostgreSQL and Valkey as children of this process, so that they can be killed, frozen and started again."""

import asyncio
import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from opsplane.embedded import postgres, processes, valkey
from opsplane.embedded.rooms import Kind, Room
from opsplane.embedded.servers import Server

# Killing processes loses nothing that the kernel holds, so only a commit's way to the kernel must be honest.
HONEST = ("-c", "synchronous_commit=on", "-c", "full_page_writes=on", "-c", "client_connection_check_interval=5s")
START_S = 30.0


@dataclass
class Child:
    """A server program and the process that runs it at the moment."""

    server: Server
    command: tuple[str, ...]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process that was started last."""
        assert self.process is not None
        return self.process.pid

    async def start(self) -> None:
        """Start it and wait until it answers; what it starts beside remains of a dead one is tried again."""
        for _ in range(20):
            if await self._started():
                return
            await asyncio.sleep(0.2)
        raise AssertionError(f"{self.server.program} did not start; see {self.log}")

    async def end(self, how: signal.Signals) -> None:
        """Send the signal and wait for the end."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(how)
        await asyncio.to_thread(self.process.wait)

    async def _started(self) -> bool:
        self.server.clear()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220
                self.command, cwd=self.server.data, env=processes.ENVIRONMENT, umask=0o077, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True, **processes.as_account(self.server.account),
            )  # fmt: skip
        ends = asyncio.get_running_loop().time() + START_S
        while self.process.poll() is None and asyncio.get_running_loop().time() < ends:
            if self.server.ready(self.process.pid):
                return True
            await asyncio.sleep(0.02)
        return False


def make_postgres(home: Path) -> Child:
    """A PostgreSQL that is prepared but not started."""
    server = postgres.prepare(_room(home, Kind.POSTGRES), durable=False)
    return Child(server, (*server.command, *HONEST), home / "postgres.log")


def make_valkey(home: Path) -> Child:
    """A Valkey that is prepared but not started."""
    server = valkey.prepare(_room(home, Kind.VALKEY))
    return Child(server, server.command, home / "valkey.log")


def _room(home: Path, kind: Kind) -> Room:
    home.chmod(0o711 if os.geteuid() == 0 else 0o700)  # PostgreSQL runs as another account than root
    room = Room(home, kind)
    room.prepare()
    return room
