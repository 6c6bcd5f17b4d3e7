"""Pictures of a run: a shape for each tenant, few elements for many."""

import re

import pytest

from opsplane.pages import drawing
from opsplane.runs.figures import LETTERS
from opsplane.runs.states import ItemState


def test_every_letter_has_a_shape_of_its_own() -> None:
    assert set(drawing.SHAPES) == set(LETTERS)
    assert {shape.state for shape in drawing.SHAPES.values()} == set(ItemState)
    assert len({shape.path for shape in drawing.SHAPES.values()}) == len(LETTERS)


@pytest.mark.parametrize("count", [1, 25, 26, 250, 5000])
def test_every_tenant_is_drawn_once_inside_the_box(count: int) -> None:
    cells = "".join(LETTERS[place % 6] for place in range(count))
    grid = drawing.grid(cells, 40)
    corners = [(int(x), int(y)) for path in grid.paths.values() for x, y in re.findall(r"M(\d+) (\d+)", path)]
    assert len(corners) == len(set(corners)) == count == sum(grid.counts.values())
    assert max(x for x, _ in corners) + drawing.CELL <= grid.width
    assert max(y for _, y in corners) + drawing.CELL == grid.height
    assert len(grid.paths) <= 6


def test_nothing_is_drawn_of_a_run_that_has_no_items_yet() -> None:
    assert drawing.grid("", 40).paths == {}
    assert drawing.line([]) == drawing.line([5]) == drawing.line([0, 0]) == ""


def test_the_line_begins_and_ends_on_the_ground_and_touches_the_top() -> None:
    path = drawing.line([0, 50, 100, 25])
    assert path.startswith("M0 32L0 32")
    assert path.endswith("L100 24L100 32")
    assert re.search(r"L66.67 0(?=L)", path)
