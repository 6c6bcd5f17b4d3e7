"""The process that owns one embedded server: starts it, waits until nobody uses it, stops it."""

import fcntl
import os
import signal
import sys
import time
from pathlib import Path

import psutil

from opsplane.embedded import postgres, processes, valkey
from opsplane.embedded.rooms import PAUSE_S, TIME_LIMIT_S, Endpoint, Kind, Lock, Room
from opsplane.embedded.servers import Server
from opsplane.errors import OpsplaneError, ServiceUnavailable

WATCH_S = 0.1


class Asked:
    """Whether the system asked this process to end."""

    def __init__(self) -> None:
        self.to_end = False
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _end(self, *_: object) -> None:
        self.to_end = True


def main(argv: list[str]) -> int:
    """Own the server of one room; this process inherited the descriptor that holds the room's sidecar lock."""
    kind, home, durability = argv
    os.chdir("/")
    try:
        return _own(Room(Path(home), Kind(kind)), durable=durability == "durable")
    except OpsplaneError as refusal:
        sys.stderr.write(f"{refusal}\n")
    except OSError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    return 1


def _own(room: Room, *, durable: bool) -> int:
    asked = Asked()
    server = postgres.prepare(room, durable=durable) if room.kind is Kind.POSTGRES else valkey.prepare(room)
    process = _adopt(server) or _launch(server)
    try:
        safe = durable or room.kind is Kind.VALKEY  # which promises nothing
        room.publish(Endpoint(server.url, str(server.socket), durable=safe))
        with Lock(room.users_lock) as seats:
            while not asked.to_end and processes.alive(process):
                if seats.take(fcntl.LOCK_EX):
                    break
                time.sleep(WATCH_S)
            room.withdraw()
            failed = not processes.alive(process)
            if failed:
                sys.stderr.write("the server ended while it was in use\n")
            processes.stop([process], server.signals)
            server.close()
            return int(failed)  # only now, and with it the lock, newcomers may start anew
    finally:
        room.withdraw()
        processes.stop([process], server.signals)


def _adopt(server: Server) -> psutil.Process | None:
    """The server a killed sidecar left behind, if it is the one we would start; any other one of ours is stopped."""
    ours = processes.inside(server.data, server.program)
    heads = processes.heads(ours)
    if len(heads) == 1 and processes.runs(heads[0], server.command) and server.ready(heads[0].pid):
        return heads[0]
    processes.stop(heads, server.signals)
    processes.stop(ours, server.signals)
    return None


def _launch(server: Server) -> psutil.Process:
    server.clear()
    process = processes.launch(server.command, server.account, server.data)
    deadline = time.monotonic() + TIME_LIMIT_S
    while time.monotonic() < deadline:
        if not processes.alive(process):
            raise ServiceUnavailable("the server ended while starting")
        if server.ready(process.pid):
            return process
        time.sleep(PAUSE_S)
    processes.stop([process], server.signals)
    raise ServiceUnavailable("the server did not become ready")
