"""The application over HTTP, and commands as processes."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest

from opsplane.config import Settings
from opsplane.runbooks.service import Plane
from tests import web
from tests.conftest import RUNBOOKS
from tests.web import Doors


@pytest.fixture
async def doors(plane: Plane) -> AsyncIterator[Doors]:
    """The whole application over empty tables."""
    async with web.doors(plane) as found:
        yield found


# Who is started in the background is deaf to Ctrl-C, and so would be the commands that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Commands:
    """Starts commands against one database and ends what it started."""

    def __init__(self, settings: Settings) -> None:
        self._started: list[subprocess.Popen[str]] = []
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("OPSPLANE_", "COLUMNS"))
        } | {
            "OPSPLANE_DATABASE_URL": settings.database_url or "",
            "OPSPLANE_REDIS_URL": settings.redis_url or "",
            "OPSPLANE_RUNBOOKS_DIR": str(RUNBOOKS),
            "OPSPLANE_LEASE_S": "2",
            "OPSPLANE_SWEEP_S": "0.5",
            "OPSPLANE_WORKER_CONCURRENCY": "1",
        }

    def start(self, *arguments: str, module: str = "main", **environment: str) -> subprocess.Popen[str]:
        return self._start([module, *arguments], environment, subprocess.PIPE)

    def start_on(self, terminal: int, *arguments: str) -> subprocess.Popen[str]:
        return self._start(["main", *arguments], {"TERM": "xterm-256color"}, terminal)

    def _start(self, command: list[str], environment: dict[str, str], where: int) -> subprocess.Popen[str]:
        module, *arguments = command
        process = subprocess.Popen(
            [sys.executable, "-m", f"opsplane.cli.{module}", *arguments],
            env=self._environment | environment, text=True,
            stdin=subprocess.DEVNULL, stdout=where, stderr=where,
        )  # fmt: skip
        self._started.append(process)
        return process

    def run(self, *arguments: str, module: str = "main", **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, module=module, **environment)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def commands(settings: Settings) -> Iterator[Commands]:
    started = Commands(settings)
    yield started
    started.end()
