"""Processes that are provably ours: those that work inside a folder we made."""

import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL, Signals
from typing import Any

import psutil

from opsplane.embedded.accounts import Account
from opsplane.embedded.rooms import PAUSE_S

PATIENCE_S = 20.0
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def launch(command: Sequence[str], account: Account | None, folder: Path) -> psutil.Process:
    """Start a server inside `folder`, as `account`; its output goes to the sidecar's log."""
    return psutil.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env=ENVIRONMENT,
        umask=0o077,
        **as_account(account),
    )


def as_account(account: Account | None) -> dict[str, Any]:
    """Arguments of `subprocess` that change to the account, with none of root's groups."""
    return {} if account is None else {"user": account.uid, "group": account.gid, "extra_groups": []}


def inside(folder: Path, program: str) -> list[psutil.Process]:
    """The living processes of `program` whose working folder is `folder`."""
    found = []
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == program:
            with suppress(psutil.Error, OSError):
                if process.cwd() == str(folder) and alive(process):
                    found.append(process)
    return found


def heads(family: list[psutil.Process]) -> list[psutil.Process]:
    """Those whose parent is not of the family."""
    pids = {process.pid for process in family}
    return [process for process in family if _facts(process)["ppid"] not in pids]


def runs(process: psutil.Process, command: Sequence[str]) -> bool:
    """Whether it was started by exactly this command."""
    return bool(_facts(process)["cmdline"] == list(command))


def alive(process: psutil.Process) -> bool:
    """Whether it still runs; a zombie does not, nor does another process with its id."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop(family: list[psutil.Process], signals: Sequence[Signals]) -> None:
    """Ask gently, then less so, until none lives."""
    for sign in (*signals, SIGKILL):
        family = [process for process in family if alive(process)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(sign)
        deadline = time.monotonic() + PATIENCE_S
        while any(map(alive, family)) and time.monotonic() < deadline:
            time.sleep(PAUSE_S)


def _facts(process: psutil.Process) -> dict[str, Any]:
    try:
        return process.as_dict(["ppid", "cmdline"])
    except psutil.NoSuchProcess:
        return {"ppid": None, "cmdline": None}
