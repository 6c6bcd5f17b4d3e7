"""The states of runs and items, and the only moves between them."""

from enum import StrEnum

from opsplane.errors import Conflict


class Status(StrEnum):
    """Where a run is. *Asked* (`pausing`, `cancelling`) is not *done* (`paused`, `completed`)."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    COMPLETED = "completed"


class Outcome(StrEnum):
    """How a run ended; `pending` until it has."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    PARTIALLY_SUCCEEDED = "partially_succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ItemState(StrEnum):
    """Where one tenant's part of a run is; `skipped` means that nothing was wrong there."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


UNDER_WAY = (Status.RUNNING, Status.PAUSING, Status.CANCELLING)
OPEN_ITEM_STATES = (ItemState.PENDING, ItemState.RUNNING)

TRANSITIONS: dict[Status, frozenset[Status]] = {
    # running: expanded into items. cancelling: cancelled before any worker came.
    # completed: it never could run (its runbook is gone, or no worker was alive for too long).
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELLING, Status.COMPLETED}),
    # pausing, cancelling: an operator asked. completed: no item is open.
    Status.RUNNING: frozenset({Status.PAUSING, Status.CANCELLING, Status.COMPLETED}),
    # paused: no item is leased any more. running: resumed before that. completed: the last item ended first.
    Status.PAUSING: frozenset({Status.PAUSED, Status.RUNNING, Status.CANCELLING, Status.COMPLETED}),
    Status.PAUSED: frozenset({Status.RUNNING, Status.CANCELLING}),
    # completed: no item is leased any more.
    Status.CANCELLING: frozenset({Status.COMPLETED}),
    # The end: the scope is free again.
    Status.COMPLETED: frozenset(),
}


VERBS = {Status.PAUSING: "paused", Status.RUNNING: "resumed", Status.CANCELLING: "cancelled"}


WHY_NOT = {
    Status.QUEUED: ": it has not begun, but it can be cancelled",
    Status.CANCELLING: ": it ends as soon as its workers have ended their chunks",
    Status.COMPLETED: " any more: it is over",
}


class InvalidTransition(Conflict):
    """The run's status does not allow this."""

    code = "invalid_transition"

    def __init__(self, current: Status, wanted: Status) -> None:
        verb = VERBS.get(wanted, wanted)
        super().__init__(
            f"A run that is {current} cannot be {verb}{WHY_NOT.get(current, '')}.",
            run_status=current,
            wanted=wanted,
        )


def sources(wanted: Status) -> list[Status]:
    """Every status from which `wanted` may be reached."""
    return [status for status, targets in TRANSITIONS.items() if wanted in targets]


def outcome_of(*, succeeded: int, failed: int, cancelled: bool) -> Outcome:
    """The outcome that the ended items add up to; a skipped item counts as neither success nor failure."""
    if cancelled:
        return Outcome.CANCELLED
    if failed == 0:
        return Outcome.SUCCEEDED
    return Outcome.PARTIALLY_SUCCEEDED if succeeded else Outcome.FAILED
