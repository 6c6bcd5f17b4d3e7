"""The badges of the pages in a terminal: the same words, and a colour that never says more than the word."""

from rich.text import Text

from opsplane.pages import badges
from opsplane.runs.schemas import RunOut
from opsplane.runs.states import Status

COLOURS = {"green": "green", "red": "red", "amber": "yellow", "blue": "blue", "gray": "bright_black"}


def label(kind: str, value: str) -> Text:
    """The word for a value, in its colour."""
    badge = badges.find(kind, value)
    return Text(badge.label, COLOURS[badge.colour])


def badge(shown: RunOut) -> Text:
    """Where a run is, or how it ended."""
    kind, value = state(shown)
    word = label(kind, value)
    return Text(f" {word.plain} ", f"bold reverse {word.style}")


def colour(shown: RunOut) -> str:
    """The colour of where a run is, or of how it ended."""
    return str(label(*state(shown)).style)


def state(shown: RunOut) -> tuple[str, str]:
    """What a run's one badge is about: its outcome once it has one, its status before, or that it is throttled."""
    if shown.status is Status.COMPLETED:
        return "outcome", shown.outcome
    return "status", "throttled" if shown.throttled and not shown.stalled else shown.status
