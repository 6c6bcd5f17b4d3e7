"""A run in sentences, the same for pages, the API and the terminal: how far, how fast, and what happens next."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache

from opsplane.runs.states import Outcome, Status

PACE_AFTER = 0.05  # before that a guess of the time left is a lie
QUIET_AFTER_S = 15
UNKNOWN = "\N{EN DASH}"

NEXT = {
    Status.QUEUED: "A worker will take it within seconds.",
    Status.RUNNING: "It goes on without you; look away and come back as you like.",
    Status.PAUSING: "Workers end their chunks, then it is paused. Its scope stays locked.",
    Status.PAUSED: "Nothing happens until somebody resumes it. Its scope stays locked.",
    Status.CANCELLING: "Workers end their chunks, then it is cancelled. What is repaired stays repaired.",
}
ENDED = {
    Outcome.SUCCEEDED: "Every tenant is done, and its scope is free again.",
    Outcome.PARTIALLY_SUCCEEDED: (
        "Some tenants failed, all others are done. Mend the cause, then retry the failed ones."
    ),
    Outcome.FAILED: "Mend the cause, then retry: what is right is left alone.",
    Outcome.CANCELLED: "It was cancelled. What is repaired stays repaired.",
    Outcome.PENDING: "",
}


def number(value: float | None) -> str:
    """12,345, or a dash for what is not known."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def duration(milliseconds: float | None) -> str:
    """0.4 s, 12 s, 3 min 5 s, 2 h 10 min, or a dash for what is not known."""
    if milliseconds is None:
        return UNKNOWN
    seconds = milliseconds / 1000
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def moment(at: datetime) -> str:
    """An absolute time in UTC: 2026-11-21 14:02:11 UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


RETRIED = {
    Outcome.PENDING: "Its failed tenants are being retried in a run of their own.",
    Outcome.SUCCEEDED: "Its failed tenants were retried in a run of their own, and are done.",
}


@lru_cache
def next_step(
    status: Status,
    outcome: Outcome,
    *,
    stalled: bool,
    workers: bool = True,
    retried: Outcome | None = None,
    throttled: str | None = None,
) -> str:
    """What happens now, or what an operator can do."""
    if retried in RETRIED:
        return RETRIED[retried]
    if stalled:
        return "No worker carries it on. Start one: opsplane worker"
    if throttled is not None:
        return f"Throttled: {throttled}. It speeds up again by itself once that is over."
    if not workers and status in {Status.QUEUED, Status.RUNNING}:
        return "No worker is alive, so it waits. Start one: opsplane worker"
    return ENDED[outcome] if status is Status.COMPLETED else NEXT[status]


def said(
    status: Status, counts: Mapping[str, int], affected: int | None, fraction: float, *, estimated: bool = False
) -> str:
    """How far it is: in rows if a preflight had counted or estimated them, else in tenants."""
    if status is Status.QUEUED:
        return "Waiting for a worker"
    done, total, noun = counts.get("processed", 0), counts.get("total", 0), "tenants"
    if affected:
        done, total, noun = counts.get("updated", 0), affected, "rows"
        if estimated and status is Status.COMPLETED:
            return f"{number(done)} rows; a sample had said about {number(total)}"
    if status is Status.COMPLETED and done != total:
        return f"{number(done)} of {number(total)} {noun}"  # it is over, but that is not all of them
    about = "about " if estimated and affected else ""
    return f"{number(done)} of {about}{number(total)} {noun} ({int(fraction * 100)} %)"


def pace(
    status: Status,
    rows_per_s: float | None,
    eta_s: float | None,
    fraction: float,
    *,
    quiet_s: float | None = None,
    throttled: bool = False,
) -> str:
    """How fast it is, and how long it still takes, once that can be told; or for how long nothing has moved."""
    if status is Status.RUNNING and quiet_s is not None and quiet_s >= QUIET_AFTER_S:
        return f"nothing for {duration(quiet_s * 1000)}"
    parts = [f"{number(rows_per_s)} rows/s"] if rows_per_s and status is not Status.PAUSED else []
    if eta_s is not None and fraction >= PACE_AFTER and status is Status.RUNNING and not throttled:
        parts.append(f"about {duration(eta_s * 1000)} left" if eta_s >= 1 else "less than 1 s left")
    return ", ".join(parts)
