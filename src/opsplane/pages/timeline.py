"""What happened to a run, in the order in which it happened; the page's script adds what happens from then on."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from opsplane.runs.schemas import RunOut


@dataclass(frozen=True)
class Step:
    """Something that happened; `kind` and `value` name its badge, `by` whoever did it, if it was somebody."""

    kind: str
    value: str
    at: datetime
    by: str | None = None


def of(run: RunOut) -> list[Step]:
    """The steps of a run, with all that was asked of it."""
    return sorted(_steps(run), key=lambda step: step.at)


def _steps(run: RunOut) -> Iterator[Step]:
    yield Step("step", "queued", run.created_at, run.actor.display)
    if run.started_at:
        yield Step("step", "started", run.started_at)
    for asked in run.asks:
        yield Step("step", asked.what, asked.at, asked.by)
    if run.paused_at:
        yield Step("step", "paused", run.paused_at)
    if run.completed_at:
        yield Step("outcome", run.outcome, run.completed_at)
