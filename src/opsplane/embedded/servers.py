"""What the sidecar needs to know of a server."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from opsplane.embedded.accounts import Account


@dataclass(frozen=True)
class Server:
    """A program and the folder of ours that it works in; by that folder its processes are told from all others."""

    program: str
    command: tuple[str, ...]
    account: Account | None
    data: Path
    url: str
    socket: Path
    signals: tuple[Signals, ...]
    """What stops it, from the gentlest on."""
    ready: Callable[[int], bool]
    """Whether the process with this id, and no other, answers."""
    clear: Callable[[], None]
    """Remove what a dead server left behind; called only when none of its processes lives."""
    close: Callable[[], None]
    """Remove what was made for this run only."""
