"""Follow a run until it ends."""

import asyncio
import os
import time
import uuid
from collections.abc import Callable, Sequence

from opsplane.cli import context, output, sheets
from opsplane.cli.lines import Lines
from opsplane.cli.live import Picture
from opsplane.errors import ServiceUnavailable
from opsplane.runbooks.service import Plane
from opsplane.runs import figures, processes, views
from opsplane.runs.figures import FiguresOut
from opsplane.runs.schemas import FailureOut, RunOut
from opsplane.runs.states import Outcome, Status

POLL_S = 0.2
NO_FIGURES = FiguresOut(cells="", columns=1, tenants_per_cell=1, throughput=[], seconds_per_point=0)


class Reporter:
    """Shows a run each time it is looked at, and tells each failure once."""

    def __init__(self, screen: Picture | Lines) -> None:
        self.screen = screen
        self._told: set[uuid.UUID | None] = set()

    def show(self, shown: RunOut, drawn: FiguresOut) -> None:
        """Show the run as it is now."""
        for told in self._news(shown.failures):
            self.screen.tell(sheets.failure(told))
        if shown.status is Status.COMPLETED and (more := sheets.unseen(shown, len(self._told))):
            self.screen.tell(more)
        self.screen.show(shown, drawn)

    def _news(self, failures: Sequence[FailureOut]) -> list[FailureOut]:
        news = [failure for failure in failures if failure.tenant_id not in self._told]
        self._told.update(failure.tenant_id for failure in news)
        return news


async def until_done(
    plane: Plane, run_id: uuid.UUID, *, timeout_s: float | None, check: Callable[[], None] = lambda: None
) -> RunOut:
    """The run once it is completed, shown live meanwhile, or as it is when `timeout_s` has passed.

    `check` may raise to end a wait that has become pointless.
    """
    ends = time.monotonic() + timeout_s if timeout_s is not None else None
    shown, drawn = await _look(plane, run_id, draws=False)
    sheets.header(shown)
    await _warn_without_workers(plane, shown)
    with _screen() as screen:
        reporter = Reporter(screen)
        while True:
            began = time.monotonic()
            shown, drawn = await _look(plane, run_id, draws=screen.draws)
            reporter.show(shown, drawn)
            if shown.status is Status.COMPLETED or (ends is not None and time.monotonic() > ends):
                return shown
            check()
            await asyncio.sleep(max(POLL_S, 3 * (time.monotonic() - began)))  # watching costs a quarter at most


async def started(plane: Plane, run: RunOut, *, wait: bool, timeout_s: float | None, json_: bool) -> int:
    """Print a run that was just started, or follow it to its end; returns the exit code."""
    if wait:
        return await follow(plane, run.id, timeout_s=timeout_s, json_=json_)
    sheets.whole(run, json_=json_)
    output.note(f"Follow it: opsplane runs watch {run.id}")
    return 0


async def until_settled(plane: Plane, shown: RunOut, *, timeout_s: float | None) -> RunOut:
    """The run once it is no longer pausing or cancelling, or as it is when `timeout_s` has passed."""
    ends = time.monotonic() + timeout_s if timeout_s is not None else None
    while shown.status in {Status.PAUSING, Status.CANCELLING} and (ends is None or time.monotonic() < ends):
        await asyncio.sleep(POLL_S)
        async with plane.db.reading() as session:
            shown = await views.show(session, shown.id, base_url=plane.settings.base_url)
    return shown


async def follow(plane: Plane, run_id: uuid.UUID, *, timeout_s: float | None, json_: bool) -> int:
    """Watch a run, print what became of it; returns the exit code. Nothing that ends the watching ends the run."""
    try:
        shown = await until_done(plane, run_id, timeout_s=timeout_s)
    except (asyncio.CancelledError, ServiceUnavailable):
        output.note(f"The run goes on without you; follow it again: opsplane runs watch {run_id}")
        raise
    if _read_together() and not json_:
        sheets.result(shown)
    else:
        sheets.whole(shown, json_=json_)
    if shown.status is not Status.COMPLETED:
        output.note(f"Timed out, and the run is {shown.status}; follow it again: opsplane runs watch {run_id}")
    return exit_code(shown)


def exit_code(shown: RunOut) -> int:
    """0 succeeded, 1 not, 5 still going on."""
    if shown.status is not Status.COMPLETED:
        return context.TIMED_OUT
    return 0 if shown.outcome is Outcome.SUCCEEDED else context.FAILED


async def _look(plane: Plane, run_id: uuid.UUID, *, draws: bool) -> tuple[RunOut, FiguresOut]:
    async with plane.db.reading() as session:
        shown = await views.show(session, run_id, base_url=plane.settings.base_url)
        return shown, await figures.show(session, run_id) if draws else NO_FIGURES


def _screen() -> Picture | Lines:
    # Only a real terminal is drawn on: FORCE_COLOR wants colours in a log, not a cursor that moves.
    drawable = os.isatty(2) and output.err.is_interactive
    return Picture(output.live) if drawable else Lines(output.err)


def _read_together() -> bool:
    """Whether stdout and stderr are one terminal or one file, so that nothing need be said on both."""
    return os.path.samestat(os.fstat(1), os.fstat(2))


async def _warn_without_workers(plane: Plane, shown: RunOut) -> None:
    async with plane.db.reading() as session:
        alive = await processes.live_workers(session)
    if not alive and shown.status is not Status.COMPLETED:
        output.note("No worker is alive, so the run waits. Start one in another terminal: opsplane worker")
