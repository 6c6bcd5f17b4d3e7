"""What a process counts about runs, their items and its own sweeps; what a transaction does, once that is durable."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane import db
from opsplane.direct import Begun
from opsplane.runbooks import registry
from opsplane.runs.states import OPEN_ITEM_STATES, ItemState, Outcome

RELEASED, RETRY, LEFT_BEHIND, EXPIRED = REASONS = ("released", "retry", "left_behind", "expired")

runs_completed = Counter("opsplane_runs_completed_total", "Runs that this process completed.", ["type", "outcome"])
items_ended = Counter("opsplane_items_ended_total", "Tenants' parts of runs that this process ended.", ["state"])
rows_updated = Counter("opsplane_rows_updated_total", "Rows that this process repaired.", ["type"])
chunk_seconds = Histogram(
    "opsplane_chunk_seconds",
    "Time from before a chunk's transaction until after its commit.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15),
)
leases_lost = Counter("opsplane_leases_lost_total", "Tenants that this worker found taken from it.")
tenants_given_back = Counter(
    "opsplane_tenants_given_back_total",
    "Tenants put back to be worked on later: released by a worker that stops or has other work, for another try, "
    "left behind in trouble with the database, or taken by a sweep when their lease had expired.",
    ["reason"],
)
step_seconds = Histogram(
    "opsplane_sweep_step_seconds",
    "Time of the steps of sweeps that it was this process's turn to take.",
    ["step"],
    buckets=(0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 15),
)
step_failures = Counter(
    "opsplane_sweep_step_failures_total", "Steps of sweeps that failed, other than for want of a database.", ["step"]
)
swept = Gauge(
    "opsplane_sweep_last_completed_timestamp_seconds", "When this process last came to the end of a sweep."
)  # fmt: skip

throttled = Gauge(
    "opsplane_throttled",
    "Whether this worker goes easy on the database because of the signal, as of its last reading.",
    ["signal"],
)
throttled_seconds = Counter(
    "opsplane_throttled_seconds_total",
    "Time in which drains of this worker rested or waited because of it.",
    ["signal"],
)
alerts_not_written = Counter(
    "opsplane_alerts_not_written_total", "Alerts and notifications of runs that the database refused for good."
)


def begin() -> None:
    """Show zeros for what has not happened yet: a series that begins with its first event hides it from `rate()`."""
    for runbook in registry.every():
        rows_updated.labels(runbook.key)
        for outcome in set(Outcome) - {Outcome.PENDING}:
            runs_completed.labels(runbook.key, outcome)
    for state in set(ItemState) - set(OPEN_ITEM_STATES):
        items_ended.labels(state)
    for reason in REASONS:
        tenants_given_back.labels(reason)


@contextmanager
def throttled_for(signal: str | None) -> Iterator[None]:
    """Count the time that is spent within."""
    began = time.monotonic()
    try:
        yield
    finally:
        throttled_seconds.labels(str(signal)).inc(time.monotonic() - began)


def completed(session: AsyncSession, run_type: str, outcome: Outcome) -> None:
    """Count a run that the transaction completes."""
    _once_durable(session, runs_completed.labels(run_type, outcome), 1)


def ended(session: Begun, state: ItemState, count: int = 1) -> None:
    """Count items that the transaction ends."""
    _once_durable(session, items_ended.labels(state), count)


def given_back(session: Begun, reason: str, count: int = 1) -> None:
    """Count items that the transaction puts back."""
    _once_durable(session, tenants_given_back.labels(reason), count)


def chunk(run_type: str, rows: int, seconds: float) -> None:
    """Count a chunk that is committed."""
    rows_updated.labels(run_type).inc(rows)
    chunk_seconds.observe(seconds)


def _once_durable(session: Begun, counter: Counter, count: int) -> None:
    async def act() -> None:
        counter.inc(count)

    if count:
        db.after_commit(session, act)
