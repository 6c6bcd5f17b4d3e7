"""A run in sentences."""

import pytest

from opsplane.runs import words
from opsplane.runs.states import Outcome, Status

COUNTS = {"processed": 3, "total": 12, "updated": 12_345}


@pytest.mark.parametrize(
    ("milliseconds", "said"),
    [
        (None, words.UNKNOWN), (0, "0.0 s"), (449, "0.4 s"), (9_949, "9.9 s"), (9_960, "10 s"), (59_400, "59 s"),
        (59_600, "1 min 0 s"), (3_599_400, "59 min 59 s"), (3_600_000, "1 h 0 min"), (90_000_000, "25 h 0 min"),
    ],
)  # fmt: skip
def test_durations_read_as_people_say_them(milliseconds: int | None, said: str) -> None:
    assert words.duration(milliseconds) == said


def test_progress_is_in_rows_once_a_preflight_counted_them_else_in_tenants() -> None:
    assert words.said(Status.RUNNING, COUNTS, 40_112, 0.3078) == "12,345 of 40,112 rows (30 %)"
    assert words.said(Status.RUNNING, COUNTS, None, 0.25) == "3 of 12 tenants (25 %)"
    assert words.said(Status.QUEUED, {}, 40_112, 0) == "Waiting for a worker"


def test_the_time_left_is_told_only_of_a_run_that_goes_on_and_has_begun_in_earnest() -> None:
    assert words.pace(Status.RUNNING, 410.4, 61.0, 0.3) == "410 rows/s, about 1 min 1 s left"
    assert words.pace(Status.RUNNING, 410.4, 61.0, 0.04) == "410 rows/s"
    assert words.pace(Status.RUNNING, 410.4, 61.0, 0.3, throttled=True) == "410 rows/s"
    assert words.pace(Status.PAUSED, 410.4, 61.0, 0.3) == ""
    assert words.pace(Status.QUEUED, None, None, 0) == ""


@pytest.mark.parametrize("status", Status)
def test_every_state_says_what_happens_next(status: Status) -> None:
    for outcome in set(Outcome) - {Outcome.PENDING}:
        assert words.next_step(status, outcome, stalled=False).endswith(".")
    assert "opsplane worker" in words.next_step(status, Outcome.PENDING, stalled=True)
