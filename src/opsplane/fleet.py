"""Worker processes beside this one: started, started anew when they die, ended together."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from opsplane.config import Settings
from opsplane.errors import ServiceUnavailable

log = structlog.get_logger()

GRACE_S = 30
LOOK_S = 1.0
YOUNG_S = 10.0
REST_S = 10.0
YOUNG_DEATHS = 3  # one after another: it cannot even start


@dataclass
class Place:
    """Room for one worker, which is filled again when it dies; not at once, if none lives long there."""

    command: Sequence[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    since: float
    young_deaths: int = 0

    @classmethod
    def filled(cls, command: Sequence[str], environment: dict[str, str]) -> "Place":
        """A place with its first worker."""
        return cls(command, environment, _start(command, environment), time.monotonic())

    @property
    def lost(self) -> bool:
        """Whether no worker seems to live there."""
        return self.young_deaths >= YOUNG_DEATHS

    def look(self) -> None:
        """Fill the place again if its worker has died."""
        if self.process.poll() is None or (self.lost and time.monotonic() - self.since < REST_S):
            return
        young = time.monotonic() - self.since < YOUNG_S
        self.young_deaths = self.young_deaths + 1 if young else 0
        log.error("worker_died", pid=self.process.pid, exit_code=self.process.returncode)
        _let_go(self.process)
        self.process, self.since = _start(self.command, self.environment), time.monotonic()


class Fleet:
    """So many workers, looked after by a thread of this process."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], count: int) -> None:
        self._places = [Place.filled(command, environment) for _ in range(count)]
        self._ending = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="fleet", daemon=True)
        self._keeper.start()

    def require_alive(self) -> None:
        """Find out whether any worker is left, or will be again.

        Raises:
            ServiceUnavailable: none could be kept alive, so whoever waits for them waits for ever.
        """
        if all(place.lost and place.process.poll() is not None for place in self._places):
            codes = ", ".join(str(place.process.returncode) for place in self._places)
            raise ServiceUnavailable(
                f"Every worker has ended (exit codes {codes}); `opsplane worker` shows why.", service="workers"
            )

    def end(self) -> None:
        """Ask every worker to finish its chunk; kill those that have not ended after half a minute."""
        self._ending.set()
        self._keeper.join()
        for place in self._places:
            with contextlib.suppress(ProcessLookupError):
                place.process.send_signal(signal.SIGTERM)
        for place in self._places:
            _wait(place.process)
            _let_go(place.process)

    def _keep(self) -> None:
        while not self._ending.wait(LOOK_S):
            for place in self._places:
                place.look()


@contextmanager
def of_workers(settings: Settings, count: int) -> Iterator[Fleet]:
    """Worker processes for these settings, which name both servers; they end with this one, however it ends."""
    environment = os.environ | {
        "OPSPLANE_DATABASE_URL": settings.database_url or "",
        "OPSPLANE_REDIS_URL": settings.redis_url or "",
        "OPSPLANE_LOG_LEVEL": settings.log_level,
        "OPSPLANE_BASE_URL": settings.base_url,
    }
    fleet = Fleet([sys.executable, "-m", "opsplane.cli.main", "worker", "--with-parent"], environment, count)
    try:
        yield fleet
    finally:
        fleet.end()


def _start(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    # The pipe is the leash: its other end closes even when this process is killed. In a group of its own it does not
    # hear the terminal's Ctrl-C, which would look like a death and make the signal that ends the fleet its second.
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, process_group=0)  # noqa: S603


def _let_go(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        log.warning("worker_killed", pid=process.pid, after_s=GRACE_S)
        process.kill()
        process.wait()
