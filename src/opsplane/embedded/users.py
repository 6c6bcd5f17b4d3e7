"""The user's side: find or start the sidecar of a room, use its server, leave."""

import fcntl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from opsplane.embedded.rooms import PAUSE_S, TIME_LIMIT_S, Endpoint, Kind, Lock, Room, answers
from opsplane.errors import ConfigurationError, OpsplaneError, ServiceUnavailable

STOP_LIMIT_S = 15.0


@dataclass(frozen=True)
class Endpoints:
    """Where the embedded servers answer; `None` for a server that was not asked for."""

    database_url: str | None
    redis_url: str | None


@contextmanager
def running(home: Path, *, durable: bool = True, postgres: bool = True, valkey: bool = True) -> Iterator[Endpoints]:
    """Use the embedded servers under `home`: start those nobody runs, and stop them when their last user leaves.

    `durable=False` makes PostgreSQL faster and lets a power cut destroy its data.

    Raises:
        ConfigurationError: `home` is not a folder or not writable, or its PostgreSQL is running without durability.
        ServiceUnavailable: a server did not start within a minute; the message names its log and its last line.
    """
    try:
        home = home.resolve()
    except (OSError, RuntimeError) as error:  # a loop of symbolic links
        raise ConfigurationError(f"OPSPLANE_HOME {home} cannot be used: {error}") from None
    wanted = [kind for kind, asked in ((Kind.POSTGRES, postgres), (Kind.VALKEY, valkey)) if asked]
    with ExitStack() as stack:
        with ThreadPoolExecutor(2, "embedded") as both:  # side by side: half of a start is a Python that loads
            starts = {
                kind: both.submit(stack.enter_context, _using(Room(home, kind), durable=durable)) for kind in wanted
            }
        urls = {kind: start.result().url for kind, start in starts.items()}
        yield Endpoints(urls.get(Kind.POSTGRES), urls.get(Kind.VALKEY))


@contextmanager
def _using(room: Room, *, durable: bool) -> Iterator[Endpoint]:
    room.prepare()
    deadline = time.monotonic() + TIME_LIMIT_S
    with Lock(room.users_lock) as seat:
        with Lock(room.start_lock) as turn:
            turn.wait(fcntl.LOCK_EX, deadline, f"starting {room.kind.label} in {room.folder}")
            seat.wait(fcntl.LOCK_SH, deadline, f"stopping {room.kind.label} in {room.folder}")
            endpoint = _find_or_start(room, durable=durable, deadline=deadline)
        try:
            if durable and not endpoint.durable:
                raise ConfigurationError(
                    f"{room.kind.label} in {room.folder} runs without durability for another process; stop that first."
                )
            yield endpoint
        finally:
            seat.release()
            _see_it_stop(room, seat)


def _find_or_start(room: Room, *, durable: bool, deadline: float) -> Endpoint:
    # Holding a seat, so a sidecar that lives now will not stop of its own accord before we leave.
    while True:
        log_start = _start(room, durable=durable)
        endpoint = _wait_until_ready(room, deadline)
        if endpoint is not None:
            return endpoint
        if log_start is not None:
            raise _failure(room, "did not start", room.last_line(since=log_start))


def _start(room: Room, *, durable: bool) -> int | None:
    """Where in the log the new sidecar begins; `None` if one lives already."""
    with Lock(room.sidecar_lock) as life:
        if not life.take(fcntl.LOCK_EX):
            return None
        room.withdraw()
        arguments = [room.kind.value, str(room.home), "durable" if durable else "fast"]
        try:
            with room.open_log() as log:
                log_start = log.tell()
                # -P: a file in the current folder must not replace a module of the sidecar.
                sidecar = subprocess.Popen(  # noqa: S603
                    [sys.executable, "-P", "-m", "opsplane.embedded", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=[life.fd],  # born holding the lock: there is no moment without an owner
                )
        except OSError as error:
            raise _failure(room, "did not start", str(error)) from None
    threading.Thread(target=sidecar.wait, name="sidecar-reaper", daemon=True).start()
    return log_start


def _wait_until_ready(room: Room, deadline: float) -> Endpoint | None:
    """The endpoint, or `None` when no sidecar lives any more."""
    while time.monotonic() < deadline:
        try:
            endpoint = room.endpoint()
            if endpoint is not None and answers(Path(endpoint.socket)):
                return endpoint
        except (OSError, ValueError, TypeError) as error:
            raise _failure(room, "cannot be used by this account", str(error)) from None
        # Not yet, or no more: a sidecar that has just lost its server, or its life, is gone in a moment.
        if not _owned(room):
            return None
        time.sleep(PAUSE_S)
    raise _failure(room, f"was not ready after {TIME_LIMIT_S:.0f} s", room.last_line())


def _owned(room: Room) -> bool:
    with Lock(room.sidecar_lock) as life:
        return not life.take(fcntl.LOCK_SH)


def _see_it_stop(room: Room, seat: Lock) -> None:
    """Return when the server has stopped, or at once when others use it."""
    deadline = time.monotonic() + STOP_LIMIT_S
    while time.monotonic() < deadline:
        # The sidecar or other users hold the lock; only beside other users can it be shared.
        if not seat.take(fcntl.LOCK_EX) and seat.take(fcntl.LOCK_SH):
            return
        seat.release()
        try:
            # Only in turn: a starter must not mistake this look for a living sidecar.
            with Lock(room.start_lock) as turn:
                if turn.take(fcntl.LOCK_EX) and not _owned(room):
                    left_behind = room.endpoint()
                    if left_behind is None:
                        return
                    _start(room, durable=left_behind.durable)  # the sidecar was killed; another stops its server
        except (OpsplaneError, OSError):  # the folder was deleted
            return
        time.sleep(PAUSE_S)


def _failure(room: Room, what: str, why: str) -> ServiceUnavailable:
    return ServiceUnavailable(f"The embedded {room.kind.label} {what}: {why} (log: {room.log})")
