"""A run that goes on, drawn in place on a terminal."""

from contextlib import ExitStack
from types import TracebackType
from typing import ClassVar, Self

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.text import Text

from opsplane.cli import heat, looks, output
from opsplane.runs.figures import FiguresOut
from opsplane.runs.schemas import RunOut


class Picture:
    """The live area; what is told meanwhile goes above it."""

    draws: ClassVar[bool] = True

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._console.print()
        self._open.enter_context(self._live)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    def tell(self, line: Text) -> None:
        """Print a line above, for good."""
        self._console.print(line)

    def show(self, shown: RunOut, figures: FiguresOut) -> None:
        """Draw where the run is."""
        self._live.update(draw(shown, figures, self._console.width), refresh=True)


def draw(shown: RunOut, figures: FiguresOut, width: int) -> Group:
    """Badge, how far, how fast; a bar; a character for each tenant; what happens next."""
    progress = shown.progress
    said = [looks.badge(shown), *(Text(part) for part in (progress.said, progress.pace) if part)]
    bar = ProgressBar(
        total=1, completed=progress.fraction, width=width,
        complete_style=looks.colour(shown), finished_style=looks.colour(shown),
    )  # fmt: skip
    tenants = [heat.line(figures.cells, width), *heat.legend(shown.summary_counts, figures, width)]
    next_step = Text(shown.next_step, "yellow" if shown.stalled or shown.throttled else "dim")
    return Group(*output.flow(said, width), Padding(bar, 0), *(tenants if figures.cells else []), next_step)
