"""Files for events that the database refuses: each line is durable before the act goes on."""

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from opsplane.config import Settings

log = structlog.get_logger()

SPOOL, LOCK, REPLAYING, REJECTED = "spool.jsonl", "spool.lock", "replaying-*.jsonl", "rejected.jsonl"

Line = dict[str, Any]


def folder(settings: Settings) -> Path:
    """Where the spool and the anchor are; on a disk that outlives the process."""
    return settings.audit_spool or settings.home / "audit"


async def append(settings: Settings, line: Line) -> None:
    """Keep a line for later, fsynced.

    Raises:
        OSError: it is not kept.
    """
    await asyncio.to_thread(_append, folder(settings), SPOOL, [json.dumps(line)])


def holds_any(settings: Settings) -> bool:
    """Whether something waits to be replayed."""
    place = folder(settings)
    return (place / SPOOL).exists() or any(place.glob(REPLAYING))


@dataclass
class Batch:
    """Lines of one file; what is put back comes again, what is put aside is kept for somebody to look at."""

    lines: list[Line]
    put_back: list[Line] = field(default_factory=list)
    put_aside: list[str] = field(default_factory=list)


def taken(settings: Settings) -> Iterator[Batch]:
    """Batch after batch.

    A batch is forgotten once the caller has asked for the next one: commit before. After a
    crash in between it comes again, so storing must be idempotent.
    """
    place = folder(settings)
    _set_aside(place)
    for file in sorted(place.glob(REPLAYING)):
        with _locked(file, wait=False) as ours:
            if not ours or not file.exists():
                continue
            batch = _read(file)
            yield batch
            _append(place, REJECTED, batch.put_aside)
            _append(place, SPOOL, [json.dumps(line) for line in batch.put_back])
            file.unlink()


def _set_aside(place: Path) -> None:
    """Take what is there out of the way of those who append."""
    if (place / SPOOL).exists():
        with _locked(place / LOCK), contextlib.suppress(FileNotFoundError):
            (place / SPOOL).rename(place / REPLAYING.replace("*", uuid.uuid4().hex))


def _read(file: Path) -> Batch:
    batch = Batch([])
    for text in filter(None, file.read_text(encoding="utf-8", errors="replace").split("\n")):
        try:
            batch.lines.append(json.loads(text))
        except ValueError:
            batch.put_aside.append(text)
    return batch


def _append(place: Path, name: str, lines: list[str]) -> None:
    if not lines:
        return
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(place / LOCK):
        handle = os.open(place / name, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        try:
            # A line feed first: a line torn by a full disk must not swallow the next one.
            text = ("\n" + "\n".join(lines) + "\n").encode()
            if os.write(handle, text) < len(text):
                raise OSError(errno.ENOSPC, "only a part was written", str(place / name))
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _locked(file: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock that also works between processes; without `wait`, False if somebody else holds it."""
    handle = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        yield False
        return
    try:
        yield True
    finally:
        os.close(handle)
