"""A run that goes on, told in plain lines: for pipes, logs and CI."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import ClassVar, Self

from rich.console import Console
from rich.text import Text

from opsplane.cli import looks
from opsplane.runs.figures import FiguresOut
from opsplane.runs.schemas import RunOut

QUARTERS = 4
EVERY_S = 10.0


class Lines:
    """A line on each change of state and at each quarter, else one in ten seconds if anything has moved."""

    draws: ClassVar[bool] = False

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._state: object = None
        self._quarter, self._said, self._told_at = 0, "", 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def tell(self, line: Text) -> None:
        """Print a line."""
        self._console.print(line)

    def show(self, shown: RunOut, _figures: FiguresOut | None = None) -> None:
        """Say where the run is, if it is time to."""
        state, quarter = (*looks.state(shown), shown.stalled), int(shown.progress.fraction * QUARTERS)
        if state != self._state:
            self.tell(Text(f"{_line(shown)}. {shown.next_step}"))
        elif quarter > self._quarter or self._is_due(shown):
            self.tell(Text(_line(shown)))
        else:
            return
        self._state, self._quarter, self._said, self._told_at = state, quarter, shown.progress.said, self._clock()

    def _is_due(self, shown: RunOut) -> bool:
        return shown.progress.said != self._said and self._clock() - self._told_at >= EVERY_S


def _line(shown: RunOut) -> str:
    how_far = ", ".join(part for part in (shown.progress.said, shown.progress.pace) if part)
    return f"{looks.label(*looks.state(shown)).plain}: {how_far}"
