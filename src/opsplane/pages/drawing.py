"""Pictures of a run as SVG path data: few elements, however many tenants there are."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from opsplane.runs.schemas import RunOut
from opsplane.runs.states import Outcome

CELL = 10
LINE_WIDTH, LINE_HEIGHT = 100, 32


@dataclass(frozen=True)
class Shape:
    """What stands for a tenant in a state, drawn from the corner of its cell."""

    state: str
    path: str


# A shape for each state, so that nobody has to tell colours apart; the page's script takes them from the page.
SHAPES = {
    "p": Shape("pending", "m4 4h2v2h-2z"),
    "r": Shape("running", "m5 1l4 4l-4 4l-4-4z"),
    "s": Shape("succeeded", "m1 1h8v8h-8z"),
    "k": Shape("skipped", "m1 4h8v2h-8z"),
    "f": Shape("failed", "m2 1l3 3l3-3l1 1l-3 3l3 3l-1 1l-3-3l-3 3l-1-1l3-3l-3-3z"),
    "c": Shape("cancelled", "m1 1h8v8h-8zm2 2v4h4v-4z"),
}


@dataclass(frozen=True)
class Grid:
    """Every tenant as a cell: one path for each state, in a box of `width` by `height`."""

    width: int
    height: int
    paths: dict[str, str]
    counts: dict[str, int]


def grid(cells: str, columns: int) -> Grid:
    """Draw a run's cells, row by row."""
    paths = defaultdict(list)
    for place, state in enumerate(cells):
        row, column = divmod(place, columns)
        paths[state].append(f"M{column * CELL} {row * CELL}{SHAPES[state].path}")
    rows = -(-len(cells) // columns)
    return Grid(
        width=columns * CELL,
        height=max(rows, 1) * CELL,
        paths={state: "".join(parts) for state, parts in paths.items()},
        counts={state: len(parts) for state, parts in paths.items()},
    )


def share(run: RunOut) -> float:
    """How much of a run's bar is full: where tenants failed, it is over and yet not all is done."""
    if run.outcome not in {Outcome.PARTIALLY_SUCCEEDED, Outcome.FAILED}:
        return run.progress.fraction
    counts, affected = run.summary_counts, run.context.preflight.affected_count
    if affected:
        return min(1, counts.get("updated", 0) / affected)
    return (counts.get("processed", 0) - counts.get("failed", 0)) / max(1, counts.get("total", 0))


def line(points: Sequence[int]) -> str:
    """An area below a line, scaled to its highest point; nothing to draw below two points."""
    highest = max(points, default=0)
    if len(points) < 2 or not highest:
        return ""
    step = LINE_WIDTH / (len(points) - 1)
    drawn = (
        f"L{round(place * step, 2):g} {round(LINE_HEIGHT * (1 - value / highest), 2):g}"
        for place, value in enumerate(points)
    )
    return f"M0 {LINE_HEIGHT}{''.join(drawn)}L{LINE_WIDTH} {LINE_HEIGHT}"
