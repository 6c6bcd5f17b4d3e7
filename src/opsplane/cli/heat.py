"""A run's tenants as one line of a terminal: a character and a colour for each state."""

from collections.abc import Mapping

from rich.text import Text

from opsplane.cli import looks, output
from opsplane.runs.figures import BY_ATTENTION, LETTERS, FiguresOut
from opsplane.runs.states import ItemState

# The shapes of the pages, as far as a terminal has them.
CHARACTERS = {
    ItemState.FAILED: "\N{MULTIPLICATION X}",
    ItemState.RUNNING: "\N{BLACK DIAMOND}",
    ItemState.PENDING: "\N{MIDDLE DOT}",
    ItemState.CANCELLED: "\N{WHITE SQUARE}",
    ItemState.SUCCEEDED: "\N{BLACK SQUARE}",
    ItemState.SKIPPED: "-",
}
STATES = dict(zip(LETTERS, BY_ATTENTION, strict=True))
LEGEND = (
    ItemState.SUCCEEDED,
    ItemState.SKIPPED,
    ItemState.FAILED,
    ItemState.CANCELLED,
    ItemState.RUNNING,
    ItemState.PENDING,
)
ALWAYS = (ItemState.SUCCEEDED, ItemState.SKIPPED, ItemState.FAILED)


def line(cells: str, width: int) -> Text:
    """The cells in order of work; if they are more than `width`, of several the one that needs attention most."""
    drawn = Text()
    for letter in fitted(cells, width):
        drawn.append_text(_drawn(STATES[letter]))
    return drawn


def fitted(cells: str, width: int) -> str:
    """At most `width` cells that still stand for all of them."""
    if len(cells) <= width:
        return cells
    edges = [at * len(cells) // width for at in range(width + 1)]
    return "".join(min(cells[edges[at] : edges[at + 1]], key=LETTERS.index) for at in range(width))


def legend(counts: Mapping[str, int], figures: FiguresOut, width: int) -> list[Text]:
    """What the characters mean, and how many tenants are in each state."""
    known = _counts(counts, figures)
    shown = [state for state in LEGEND if state in ALWAYS or known[state]]
    return output.flow([_entry(state, known[state]) for state in shown], width)


def _entry(state: ItemState, count: int) -> Text:
    return Text.assemble(_drawn(state), f" {count:,} {looks.label('item', state).plain.lower()}")


def _counts(counts: Mapping[str, int], figures: FiguresOut) -> dict[ItemState, int]:
    """How many tenants are in each state; `counts` know all but how many of the open ones are running."""
    total, processed = counts.get("total", 0), counts.get("processed", 0)
    ended = {state: counts.get(state, 0) for state in ALWAYS}
    running = min(total - processed, figures.cells.count("r"))  # workers are few, so a cell seldom holds two
    return ended | {
        ItemState.CANCELLED: processed - sum(ended.values()),
        ItemState.RUNNING: running,
        ItemState.PENDING: total - processed - running,
    }


def _drawn(state: ItemState) -> Text:
    return Text(CHARACTERS[state], looks.label("item", state).style)
