"""Where a server may live: reachable for its account, short enough for a socket, and always a folder of our own.

No function here changes the mode or the owner of a folder that opsplane did not make.
"""

import os
import pwd
import re
import secrets
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from opsplane.embedded import processes
from opsplane.embedded.accounts import Account
from opsplane.embedded.rooms import Room, write_whole
from opsplane.errors import ConfigurationError

USER = "embedded_postgres"
SOCKET_PATH_LIMIT = 100  # of 108 bytes on Linux and 104 on macOS
# asyncpg and PostgreSQL both split lists of sockets at commas.
PLAIN_PATH = re.compile(r"[A-Za-z0-9_./@+-]+")
# Not /var/tmp for data that must last: what lies there is deleted, file by file, after a month without use.
# Not "insecure usage": every folder is made anew, for one account, with its mode.
LASTING = ("/var/lib", "/var/tmp", tempfile.gettempdir())  # noqa: S108 # nosec
THROWAWAY = ("/var/tmp", tempfile.gettempdir(), "/tmp")  # noqa: S108 # nosec


def account(data: Path | None) -> Account | None:
    """Whom PostgreSQL runs as: the data's owner, else an account for it; `None`: we are not root, so ourselves."""
    if os.geteuid() != 0:
        return None
    if data is not None and data.exists() and data.stat().st_uid != 0:
        return Account(data.stat().st_uid, data.stat().st_gid)
    if not _accounts(USER):
        with suppress(OSError):
            subprocess.run(["useradd", "--system", "--shell", "/bin/sh", USER], check=False, capture_output=True)  # noqa: S603, S607 # nosec B607
    for known in _accounts(USER, "nobody"):
        return known
    raise ConfigurationError("PostgreSQL refuses to run as root, and there is no other account to run it as")


def remembered(room: Room) -> Path | None:
    """The open place chosen for this room before.

    Raises:
        ConfigurationError: it is gone or not ours; starting with empty data instead would hide that.
    """
    note = room.folder / "place"
    if not note.exists():
        return None
    place = Path(note.read_text().strip())
    if place.is_symlink() or not place.is_dir() or place.stat().st_uid != os.geteuid():
        raise ConfigurationError(f"the data was in {place}, which is gone; delete {room.folder} to start afresh")
    return place


def base(room: Room, account: Account | None, *, durable: bool) -> Path:
    """The folder that takes the data: the room itself, or an open place if the account cannot reach the room.

    A lasting place survives its HOME, which may have been moved or be on a volume that is not mounted. A throwaway one,
    of tests, is removed when another is made and its room is no more.
    """
    if account is None or account.reaches(room.folder):
        return room.folder
    if not durable:
        _remove_abandoned()
    place = _make(LASTING if durable else THROWAWAY, account, mode=0o711)
    if not durable:
        write_whole(place / "throwaway", str(room.folder))
    write_whole(room.folder / "place", str(place))
    return place


def keep(place: Path) -> None:
    """Make a throwaway place a lasting one."""
    (place / "throwaway").unlink(missing_ok=True)


def binaries(package: Path, base: Path, account: Account | None) -> Path:
    """The `bin` folder of the `embedded_postgres` package, copied once if the account cannot read the original."""
    if account is None or _readable(package / "pginstall", account):
        return package / "pginstall" / "bin"
    copy = base / f"binaries-{(package / 'pginstall' / 'bin' / 'postgres').stat().st_mtime_ns}"
    if not copy.exists():
        new = Path(tempfile.mkdtemp(prefix="binaries.", dir=base))
        # The libraries find each other by relative paths, so the copy has the original's shape.
        for name in (f"{package.name}/pginstall", f"{package.name}.libs"):
            if (package.parent / name).exists():
                headers = shutil.ignore_patterns("include")
                shutil.copytree(package.parent / name, new / name, symlinks=True, ignore=headers)
        for path in (new, *new.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755)
        new.rename(copy)
    return copy / package.name / "pginstall" / "bin"


def sockets(room: Room, preferred: Path, name: str, account: Account | None) -> Path:
    """A folder for the socket `name`: the preferred one, or a short one that is remembered until the server stops."""
    if usable_for_socket(preferred / name):
        return preferred
    note = room.folder / "sockets"
    owner = os.geteuid() if account is None else account.uid
    if note.exists():
        known = Path(note.read_text().strip())
        if known.is_dir() and not known.is_symlink() and known.stat().st_uid == owner:
            return known
    place = _make((tempfile.gettempdir(), "/tmp", "/var/tmp"), account, mode=0o700, name=name)  # noqa: S108 # nosec B108
    if account is not None:
        os.chown(place, account.uid, account.gid)
    write_whole(note, str(place))
    return place


def forget_sockets(room: Room) -> None:
    """Remove the short folder, if one was made."""
    note = room.folder / "sockets"
    if note.exists():
        shutil.rmtree(note.read_text().strip(), ignore_errors=True)
        note.unlink()


def usable_for_socket(path: Path) -> bool:
    """Whether every client and server understands this socket path."""
    return len(os.fsencode(path)) <= SOCKET_PATH_LIMIT and PLAIN_PATH.fullmatch(str(path)) is not None


def _accounts(*names: str) -> list[Account]:
    found = []
    for name in names:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            found.append(Account(entry.pw_uid, entry.pw_gid))
    return found


def _readable(tree: Path, account: Account) -> bool:
    if not account.reaches(tree):
        return False
    return all(
        account.may(path, 5 if path.is_dir() or path.parent.name == "bin" else 4)
        for path in tree.rglob("*")
        if not path.is_symlink()
    )


def _remove_abandoned() -> None:
    for candidate in THROWAWAY:
        for note in Path(candidate).resolve().glob("opsplane-*/throwaway"):
            place = note.parent
            with suppress(OSError):
                ours = note.stat().st_uid == place.stat().st_uid == os.geteuid() and not place.is_symlink()
                if ours and not Path(note.read_text()).exists() and not processes.inside(place / "data", "postgres"):
                    shutil.rmtree(place, ignore_errors=True)


def _make(candidates: tuple[str, ...], account: Account | None, *, mode: int, name: str = "") -> Path:
    for candidate in candidates:
        place = Path(candidate).resolve() / f"opsplane-{secrets.token_hex(6)}"
        if name and not usable_for_socket(place / name):
            continue
        try:
            if account is None or account.reaches(place.parent):
                place.mkdir(mode=0o700)
                place.chmod(stat.S_IMODE(mode))
                return place
        except OSError:
            continue
    raise ConfigurationError(f"no usable place for a folder among {', '.join(candidates)}")
