"""Tell whoever watches a run that its status changes with this transaction."""

import uuid

from opsplane.db import Transaction
from opsplane.queue import Queue


def after_commit(tx: Transaction, queue: Queue, run_id: uuid.UUID) -> None:
    """Hint at the run once its rows are durable."""

    async def announce() -> None:
        queue.hints.moved(run_id)

    tx.after_commit.append(announce)
