"""Heartbeats: which processes are alive and which runbooks they can run."""

import os
import socket
import uuid
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane import __version__
from opsplane.runbooks import registry
from opsplane.runs.models import Process

WORKER = "worker"
BEAT_S = 5
ALIVE_FOR = timedelta(seconds=30)


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
    """Say that this process ends."""
    await session.execute(delete(Process).where(Process.id == process_id))


async def live_workers(session: AsyncSession) -> list[Process]:
    """Workers heard of in the last 30 seconds."""
    alive = Process.seen_at > func.clock_timestamp() - ALIVE_FOR
    return list(await session.scalars(select(Process).where(Process.kind == WORKER, alive)))


def can_run(workers: list[Process], runbook: str, version: int) -> bool:
    """Whether one of these workers has the code of this version."""
    return any(worker.runbooks.get(runbook) == version for worker in workers)


async def forget_dead(session: AsyncSession) -> None:
    """Drop processes not heard of for a day."""
    await session.execute(delete(Process).where(Process.seen_at < func.clock_timestamp() - timedelta(days=1)))
