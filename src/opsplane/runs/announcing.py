"""What others hear of a run once the transaction that changes it is durable."""

import uuid

from opsplane import db
from opsplane.direct import Begun
from opsplane.queue import JOBS_PER_WAKE, Queue


def after_commit(session: Begun, queue: Queue, run_id: uuid.UUID) -> None:
    """Tell whoever watches the run that its status changes."""

    async def announce() -> None:
        queue.hints.moved(run_id)

    db.after_commit(session, announce)


def wake_after_commit(session: Begun, queue: Queue, run_id: uuid.UUID, *, jobs: int = JOBS_PER_WAKE) -> None:
    """Tell workers that the run may have work."""

    async def wake() -> None:
        await queue.wake(run_id, jobs=jobs)

    db.after_commit(session, wake)
