"""The one catalogue of badges: a word, a colour and an icon for every state that pages and terminal show."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Badge:
    """How one value looks; the colour never says anything that the word does not."""

    label: str
    colour: str
    icon: str


CATALOGUE: dict[str, dict[str, Badge]] = {
    "status": {
        "queued": Badge("Queued", "gray", "clock"),
        "running": Badge("Running", "blue", "play-circle"),
        "stalled": Badge("Stalled", "red", "exclamation-triangle"),
        "throttled": Badge("Throttled", "amber", "hand-raised"),
        "pausing": Badge("Pausing", "amber", "pause-circle"),
        "paused": Badge("Paused", "amber", "pause-circle"),
        "cancelling": Badge("Cancelling", "amber", "stop-circle"),
        "completed": Badge("Completed", "gray", "flag"),
    },
    "outcome": {
        "pending": Badge("Pending", "gray", "clock"),
        "succeeded": Badge("Succeeded", "green", "check-circle"),
        "partially_succeeded": Badge("Partially succeeded", "amber", "exclamation-triangle"),
        "failed": Badge("Failed", "red", "x-circle"),
        "cancelled": Badge("Cancelled", "gray", "no-symbol"),
    },
    "item": {
        "pending": Badge("Pending", "gray", "clock"),
        "running": Badge("Running", "blue", "play-circle"),
        "succeeded": Badge("Repaired", "green", "check-circle"),
        "failed": Badge("Failed", "red", "x-circle"),
        "skipped": Badge("Nothing to repair", "gray", "forward"),
        "cancelled": Badge("Cancelled", "gray", "no-symbol"),
    },
    "step": {
        "queued": Badge("Queued", "gray", "clock"),
        "started": Badge("Started", "blue", "play-circle"),
        "pause": Badge("Pause asked", "amber", "pause-circle"),
        "paused": Badge("Paused", "amber", "pause-circle"),
        "resume": Badge("Resumed", "blue", "play-circle"),
        "cancel": Badge("Cancel asked", "amber", "stop-circle"),
    },
    "severity": {
        "critical": Badge("Critical", "red", "fire"),
        "high": Badge("High", "red", "exclamation-circle"),
        "medium": Badge("Medium", "amber", "exclamation-triangle"),
        "low": Badge("Low", "blue", "information-circle"),
        "informational": Badge("Informational", "gray", "information-circle"),
    },
    "alert": {
        "info": Badge("Information", "blue", "information-circle"),
        "warning": Badge("Warning", "amber", "exclamation-triangle"),
        "critical": Badge("Critical", "red", "x-circle"),
    },
    "delivery": {
        "pending": Badge("On its way", "blue", "paper-airplane"),
        "held": Badge("Held for quiet hours", "gray", "moon"),
        "delivered": Badge("Delivered", "green", "check-circle"),
        "suppressed": Badge("Left out by cooldown", "gray", "bell-slash"),
        "dead": Badge("Given up", "red", "x-circle"),
    },
    "channel": {
        "teams": Badge("Microsoft Teams", "gray", "user-group"),
        "email": Badge("E-mail", "gray", "envelope"),
        "webhook": Badge("Webhook", "gray", "globe-alt"),
        "service": Badge("Other service", "gray", "paper-airplane"),
    },
    "finding": {
        "new": Badge("New", "blue", "inbox"),
        "acknowledged": Badge("Acknowledged", "gray", "check"),
        "triaged": Badge("Triaged", "blue", "clipboard"),
        "in_progress": Badge("In progress", "amber", "play-circle"),
        "reopened": Badge("Reopened", "red", "arrow-path"),
        "resolved": Badge("Resolved", "green", "check-circle"),
        "closed": Badge("Closed", "gray", "flag"),
    },
}


def find(kind: str, value: str) -> Badge:
    """The badge of a value; one that the catalogue does not know shows its own name."""
    return CATALOGUE[kind].get(value) or Badge(value.replace("_", " ").capitalize(), "gray", "question-mark-circle")
