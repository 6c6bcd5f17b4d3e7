"""What the nemesis found about the end of a worker (seed 1): arq's poll can swallow the one cancellation it gets."""

import asyncio
import uuid
from typing import Any

import pytest

from opsplane.runbooks.service import Plane
from opsplane.runs.drain import Drainer
from opsplane.workers.bell import Bell


class Deaf:
    """What `asyncio.wait_for` of Python 3.11 does when its future is done in the very moment of the cancellation."""

    def __init__(self, cancels: int) -> None:
        self.left, self.tasks = cancels, dict[str, asyncio.Task[Any]]()
        self.allow_pick_jobs = True
        self.pool = self

    async def async_run(self) -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.left -= 1
                if not self.left:
                    raise

    async def aclose(self, *, close_connection_pool: bool) -> None:
        """Nothing to close."""


@pytest.mark.parametrize("cancels", [1, 2, 3])
async def test_the_bell_ends_although_a_cancellation_was_swallowed(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, cancels: int
) -> None:
    deaf = Deaf(cancels)
    monkeypatch.setattr(Bell, "_worker", lambda _bell: deaf)
    stop = asyncio.Event()
    drainer = Drainer(plane.db, plane.settings, uuid.uuid4(), stop, plane.queue.hints)
    listening = asyncio.create_task(
        Bell(drainer, plane.queue, slots=asyncio.Semaphore(1), concurrency=1).listen()
    )  # fmt: skip
    await asyncio.sleep(0.05)
    stop.set()
    await asyncio.wait_for(listening, 5)
    assert deaf.left == 0
