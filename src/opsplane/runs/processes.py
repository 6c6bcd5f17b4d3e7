"""Heartbeats: which processes are alive and which runbooks they can run."""

import asyncio
import contextlib
import os
import socket
import uuid
from datetime import timedelta

import structlog
from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane import __version__
from opsplane.db import Database
from opsplane.errors import ServiceUnavailable
from opsplane.runbooks import registry
from opsplane.runs.models import Process

log = structlog.get_logger()

WORKER, API = "worker", "api"
BEAT_S = 5
ALIVE_FOR = timedelta(seconds=30)


async def beat_until(stop: asyncio.Event, db: Database, process_id: uuid.UUID, *, kind: str, slots: int) -> None:
    """Beat every few seconds until `stop`, then leave; no failure ends the loop."""
    while not stop.is_set():
        try:
            async with db.transaction() as tx:
                await beat(tx.session, process_id, kind=kind, slots=slots)
        except ServiceUnavailable:
            pass  # logged where it was noticed
        except Exception:
            log.exception("heartbeat_failed")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), BEAT_S)
    with contextlib.suppress(ServiceUnavailable):
        async with db.transaction() as tx:
            await leave(tx.session, process_id)


async def beat(session: AsyncSession, process_id: uuid.UUID, *, kind: str, slots: int) -> None:
    """Say that this process lives."""
    await session.execute(
        insert(Process)
        .values(
            id=process_id,
            kind=kind,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            slots=slots,
            runbooks={runbook.key: runbook.version for runbook in registry.every()},
        )
        .on_conflict_do_update(index_elements=["id"], set_={"seen_at": func.clock_timestamp()})
    )


async def leave(session: AsyncSession, process_id: uuid.UUID) -> None:
    """Say that this process ends: it is no longer alive, but it was until now."""
    gone = func.clock_timestamp() - ALIVE_FOR
    await session.execute(update(Process).where(Process.id == process_id).values(seen_at=gone))


async def live_workers(session: AsyncSession) -> list[Process]:
    """Workers heard of in the last 30 seconds."""
    return list(await session.scalars(alive_workers()))


async def recent_workers(session: AsyncSession, within: timedelta) -> list[Process]:
    """Workers that live, or lived within this time: those that a deploy is just replacing count."""
    return list(await session.scalars(alive_workers(max(within, ALIVE_FOR))))


def alive_workers(within: timedelta = ALIVE_FOR) -> Select[Process]:
    """The same as a statement, for questions that hold more than this one."""
    alive = Process.seen_at > func.clock_timestamp() - within
    return select(Process).where(Process.kind == WORKER, alive)


def can_run(workers: list[Process], runbook: str, version: int) -> bool:
    """Whether one of these workers has the code of this version."""
    return any(worker.runbooks.get(runbook) == version for worker in workers)


async def forget_dead(session: AsyncSession) -> None:
    """Drop processes not heard of for a day."""
    await session.execute(delete(Process).where(Process.seen_at < func.clock_timestamp() - timedelta(days=1)))
