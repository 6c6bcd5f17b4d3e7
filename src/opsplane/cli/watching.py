"""Follow a run until it ends."""

import asyncio
import time
import uuid

from opsplane.cli import context, output
from opsplane.errors import ServiceUnavailable
from opsplane.runbooks.service import Plane
from opsplane.runs import processes, views
from opsplane.runs.states import Outcome, Status
from opsplane.runs.views import RunOut

POLL_S = 0.2


async def until_done(plane: Plane, run_id: uuid.UUID, *, timeout_s: float | None) -> RunOut:
    """The run once it is completed, with a live bar meanwhile, or as it is when `timeout_s` has passed."""
    await _warn_without_workers(plane)
    ends = time.monotonic() + timeout_s if timeout_s is not None else None
    with output.bar() as bar:
        while True:
            async with plane.db.reading() as session:
                shown = await views.show(session, run_id, base_url=plane.settings.base_url)
            bar.show(shown)
            if shown.status is Status.COMPLETED or (ends is not None and time.monotonic() > ends):
                return shown
            await asyncio.sleep(POLL_S)


async def follow(plane: Plane, run_id: uuid.UUID, *, timeout_s: float | None, json_: bool) -> int:
    """Watch a run, print what became of it; returns the exit code. Nothing that ends the watching ends the run."""
    try:
        shown = await until_done(plane, run_id, timeout_s=timeout_s)
    except (asyncio.CancelledError, ServiceUnavailable):
        output.note(f"The run goes on without you; follow it again: opsplane runs watch {run_id}")
        raise
    output.run(shown, json_=json_)
    if shown.status is not Status.COMPLETED:
        output.note(f"Timed out, and the run goes on; follow it again: opsplane runs watch {run_id}")
    return exit_code(shown)


def exit_code(shown: RunOut) -> int:
    """0 succeeded, 1 not, 5 still going on."""
    if shown.status is not Status.COMPLETED:
        return context.TIMED_OUT
    return 0 if shown.outcome is Outcome.SUCCEEDED else context.FAILED


async def _warn_without_workers(plane: Plane) -> None:
    async with plane.db.reading() as session:
        alive = await processes.live_workers(session)
    if not alive:
        output.note("No worker is alive, so the run waits. Start one in another terminal: opsplane worker")
