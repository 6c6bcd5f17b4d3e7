"""The folder of one embedded server: its locks, its log, and the endpoint its sidecar publishes."""

import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Self

from opsplane.errors import ConfigurationError, ServiceUnavailable

TIME_LIMIT_S = 60.0
PAUSE_S = 0.01
LOG_LIMIT_BYTES = 5_000_000


class Kind(StrEnum):
    """The two embedded servers; the value names the room's folder."""

    POSTGRES = "postgres"
    VALKEY = "valkey"

    @property
    def label(self) -> str:
        """The server's name in a message."""
        return {Kind.POSTGRES: "PostgreSQL", Kind.VALKEY: "Valkey"}[self]


@dataclass(frozen=True)
class Endpoint:
    """Where a ready server answers, and whether it survives a power cut."""

    url: str
    socket: str
    durable: bool


@dataclass(frozen=True)
class Room:
    """`HOME/<kind>`: everything about one server."""

    home: Path
    kind: Kind

    @property
    def folder(self) -> Path:
        """Made by opsplane; what is in it is opsplane's."""
        return self.home / self.kind.value

    @property
    def users_lock(self) -> Path:
        """Held shared by every user."""
        return self.folder / "users.lock"

    @property
    def start_lock(self) -> Path:
        """Held by whoever is starting or finding the sidecar."""
        return self.folder / "start.lock"

    @property
    def sidecar_lock(self) -> Path:
        """Held by the living sidecar."""
        return self.folder / "sidecar.lock"

    @property
    def log(self) -> Path:
        """Output of the sidecar and of its server."""
        return self.folder / "server.log"

    @property
    def _endpoint(self) -> Path:
        return self.folder / "endpoint.json"

    def endpoint(self) -> Endpoint | None:
        """What the sidecar published; it counts only while the sidecar lives."""
        try:
            return Endpoint(**json.loads(self._endpoint.read_text()))
        except FileNotFoundError:
            return None

    def publish(self, endpoint: Endpoint) -> None:
        """Say that the server is ready."""
        write_whole(self._endpoint, json.dumps(asdict(endpoint)))

    def withdraw(self) -> None:
        """Take the endpoint back: nobody answers there."""
        self._endpoint.unlink(missing_ok=True)

    def prepare(self) -> None:
        """Make the folders that are missing; the mode of one that exists is its owner's affair.

        Raises:
            ConfigurationError: HOME is not a folder, or not writable.
        """
        try:
            _make_folder(self.home)
            _make_folder(self.folder)
            if not os.access(self.folder, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied", str(self.folder))
        except OSError as error:
            raise unusable(self.home, error) from None

    def open_log(self) -> BinaryIO:
        """The log for appending, readable for its owner only: PostgreSQL logs statements; a large one is set aside."""
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        return open(self.log, "ab", opener=_private)

    def last_line(self, *, since: int = 0) -> str:
        """The line of the log that explains most: the last one of an error, else the last one."""
        with self.log.open("rb") as log:
            log.seek(max(since, self.log.stat().st_size - 65_536))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        telling = [line for line in lines if "FATAL:" in line or "PANIC:" in line or "ERROR:" in line]
        return (telling or lines or ["the log is empty"])[-1]


class Lock:
    """One opening of a lock file; other openings, also of this process, are other holders."""

    def __init__(self, path: Path) -> None:
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise unusable(path.parent.parent, error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, how: int) -> bool:
        """Whether the lock (`fcntl.LOCK_SH` or `LOCK_EX`) was free; it is then held."""
        try:
            fcntl.flock(self.fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def wait(self, how: int, deadline: float, doing: str) -> None:
        """Hold the lock as soon as it is free.

        Raises:
            ServiceUnavailable: the deadline (of `time.monotonic`) has passed.
        """
        while not self.take(how):
            if time.monotonic() > deadline:
                raise ServiceUnavailable(f"Waited {TIME_LIMIT_S:.0f} s for another process that is {doing}; try again.")
            time.sleep(PAUSE_S)

    def release(self) -> None:
        """Let others have it; this opening can take it again."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Release, unless another process shares this opening."""
        os.close(self.fd)


def answers(path: Path) -> bool:
    """Whether a process listens on this Unix socket.

    Raises:
        PermissionError: this account may not ask.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(str(path))
        except PermissionError:
            raise
        except OSError:
            return False
        return True


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that a reader sees all of it or none."""
    new = path.with_suffix(".new")
    with open(new, "w", opener=_private) as file:
        file.write(text)
    new.replace(path)


def unusable(home: Path, error: OSError) -> ConfigurationError:
    """The one line for a HOME that cannot be used."""
    what = error.strerror or str(error)
    where = f"{error.filename}: " if error.filename and str(error.filename) != str(home) else ""
    return ConfigurationError(f"OPSPLANE_HOME {home} cannot be used ({where}{what}); choose a folder you may write to.")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    # Root's servers run as another account, which must be able to pass through to its own data (0700).
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
