"""What others hear of a run once the transaction that changes it is durable."""

import uuid

from opsplane.db import Transaction
from opsplane.queue import JOBS_PER_WAKE, Queue


def after_commit(tx: Transaction, queue: Queue, run_id: uuid.UUID) -> None:
    """Tell whoever watches the run that its status changes."""

    async def announce() -> None:
        queue.hints.moved(run_id)

    tx.after_commit.append(announce)


def wake_after_commit(tx: Transaction, queue: Queue, run_id: uuid.UUID, *, jobs: int = JOBS_PER_WAKE) -> None:
    """Tell workers that the run may have work."""

    async def wake() -> None:
        await queue.wake(run_id, jobs=jobs)

    tx.after_commit.append(wake)
