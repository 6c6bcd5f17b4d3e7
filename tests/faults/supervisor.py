"""Keeps processes alive as a container platform would, and remembers how each one ended."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

RESPAWN_S = 1.0
WATCH_S = 0.1
AT_WORK = (b'"worker_started"', b'"Application startup complete."')


@dataclass(frozen=True)
class Exit:
    """How one process ended; `asked` is the signal that it was sent, if any."""

    name: str
    code: int
    asked: signal.Signals | None
    started: bool  # it had come as far as its work; one that finds no database when it starts may end
    age_s: float
    took_s: float | None  # from a SIGTERM to the end

    @property
    def unexpected(self) -> bool:
        """Whether it ended by itself after it had worked, or badly when asked to end well."""
        well = {None: (), signal.SIGKILL: (-signal.SIGKILL,), signal.SIGTERM: (0, -signal.SIGTERM)}[self.asked]
        return self.started and self.code not in well  # a server that has served to the end raises its signal again


@dataclass
class Kept:
    """One process that is started again whenever it ends."""

    name: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    log: Path
    exits: list[Exit]
    extra: dict[str, str] = field(default_factory=dict)  # of the next start
    starts: int = 0
    start_times: list[float] = field(default_factory=list)  # from a start to its work, in seconds
    _process: subprocess.Popen[bytes] | None = None
    _asked: tuple[signal.Signals, float] | None = None
    _started_at: float = 0.0
    _log_start: int = 0
    _at_work: bool = False
    _task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start the process and watch over it."""
        self._spawn()
        self._task = asyncio.create_task(self._keep())

    async def end(self) -> None:
        """Kill the process and watch no more."""
        assert self._process is not None
        assert self._task is not None
        self._task.cancel()
        self._process.kill()  # before anything that could be cancelled
        await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self._process.wait)

    @property
    def pid(self) -> int:
        """The process that was started last."""
        assert self._process is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal; after one that ends a process, its end is no surprise."""
        assert self._process is not None
        if number in {signal.SIGKILL, signal.SIGTERM}:
            self._asked = (number, time.monotonic())
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def next_start(self, starts: int, *, within_s: float = 60.0) -> None:
        """Wait until the process has been started more often than that."""
        async with asyncio.timeout(within_s):
            while self.starts <= starts:
                await asyncio.sleep(WATCH_S)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            assert self._process is not None
            self._look()
            if (code := self._process.poll()) is not None:
                self._note(code)
                await asyncio.sleep(RESPAWN_S)
                self._spawn()

    def _note(self, code: int) -> None:
        now = time.monotonic()
        asked, since = self._asked or (None, now)
        took_s = round(now - since, 1) if asked == signal.SIGTERM else None
        self.exits.append(Exit(self.name, code, asked, self._at_work, round(now - self._started_at, 1), took_s))

    def _look(self) -> None:
        """See in its log whether it has come as far as its work."""
        if self._at_work:
            return
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            said = log.read()
        if any(mark in said for mark in AT_WORK):
            self._at_work = True
            self.start_times.append(round(time.monotonic() - self._started_at, 1))

    def _spawn(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OPSPLANE_")}
        command = [sys.executable, "-m", "opsplane.cli.main", *self.arguments]
        with self.log.open("ab") as log:
            log.write(f"--- start {self.starts + 1} {self.extra}\n".encode())
            log.flush()
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                command, env=environment | self.environment | self.extra, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log,
            )  # fmt: skip
        self._asked, self._started_at, self._at_work, self.extra = None, time.monotonic(), False, {}
        self.starts += 1
