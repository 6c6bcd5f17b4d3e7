"""pgbouncer in transaction mode before a PostgreSQL that listens on a socket."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from opsplane.config import Pooler, Settings

MISSING = "pgbouncer is not installed (apt-get install pgbouncer)"
START_S = 10


def installed() -> bool:
    """Whether this machine has a pgbouncer."""
    return shutil.which("pgbouncer") is not None


@contextmanager
def pooled(settings: Settings, *, sessions: int = 10) -> Iterator[Settings]:
    """The settings, with the database behind a pooler that has so many sessions for everybody."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        url = urlsplit(settings.database_url or "")
        [sockets] = parse_qs(url.query)["host"]
        process = _start(Path(folder), Path(sockets), port, sessions)
        try:
            _wait(process, port)
            address = f"postgresql://postgres@127.0.0.1:{port}{url.path}?ssl=disable"
            yield settings.model_copy(update={"database_url": address, "database_pooler": Pooler.TRANSACTION})
        finally:
            process.terminate()
            process.wait()


def _start(folder: Path, sockets: Path, port: int, sessions: int) -> subprocess.Popen[bytes]:
    owner = sockets.stat()  # pgbouncer refuses to be root; the owner of PostgreSQL's socket may use it
    folder.chmod(0o755)
    (folder / "pooler.ini").write_text(
        f"""
        [databases]
        * = host={sockets} user=postgres
        [pgbouncer]
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = any
        pool_mode = transaction
        default_pool_size = {sessions}
        max_client_conn = 1000
        log_connections = 0
        log_disconnections = 0
        """.replace("        ", "")
    )
    log = (folder / "pooler.log").open("wb")
    with log:
        return subprocess.Popen(
            [shutil.which("pgbouncer") or "pgbouncer", folder / "pooler.ini"],
            user=owner.st_uid, group=owner.st_gid, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    ends = time.monotonic() + START_S
    while True:
        assert process.poll() is None, "pgbouncer did not start"
        assert time.monotonic() < ends, "pgbouncer does not listen"
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
