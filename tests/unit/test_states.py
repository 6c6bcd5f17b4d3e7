"""The transition table, both ways: what it allows happens, and nothing else does."""

import itertools

import pytest

from opsplane.runs.states import TRANSITIONS, InvalidTransition, Outcome, Status, outcome_of, sources

ALLOWED = {
    ("queued", "running"), ("queued", "cancelling"), ("queued", "completed"),
    ("running", "pausing"), ("running", "cancelling"), ("running", "completed"),
    ("pausing", "paused"), ("pausing", "running"), ("pausing", "cancelling"), ("pausing", "completed"),
    ("paused", "running"), ("paused", "cancelling"),
    ("cancelling", "completed"),
}  # fmt: skip


@pytest.mark.parametrize(("current", "wanted"), list(itertools.product(Status, Status)))
def test_a_status_is_reached_from_exactly_these(current: Status, wanted: Status) -> None:
    assert (current in sources(wanted)) == ((current, wanted) in ALLOWED)


def test_every_status_has_a_row_and_every_run_can_end() -> None:
    assert set(TRANSITIONS) == set(Status)
    reachable = {Status.COMPLETED}
    for _ in Status:
        reachable |= {status for status, targets in TRANSITIONS.items() if targets & reachable}
    assert reachable == set(Status)


def test_an_invalid_transition_names_both_sides() -> None:
    assert InvalidTransition(Status.COMPLETED, Status.RUNNING).extra == {"run_status": "completed", "wanted": "running"}


@pytest.mark.parametrize(
    ("succeeded", "failed", "cancelled", "outcome"),
    [
        (0, 0, False, Outcome.SUCCEEDED),
        (3, 0, False, Outcome.SUCCEEDED),
        (2, 1, False, Outcome.PARTIALLY_SUCCEEDED),
        (0, 3, False, Outcome.FAILED),
        (1, 1, True, Outcome.CANCELLED),
    ],
)
def test_the_outcome_is_what_the_items_add_up_to(
    succeeded: int, failed: int, cancelled: bool, outcome: Outcome
) -> None:
    assert outcome_of(succeeded=succeeded, failed=failed, cancelled=cancelled) is outcome
