"""Starts that race: a slice of `python -m tests.faults.storm`, which has the long campaign."""

from opsplane.config import Settings
from opsplane.runbooks.service import Plane
from tests.faults import storm

ROUNDS = 6


async def test_of_sixteen_starts_at_once_those_start_that_do_not_overlap_and_the_others_are_refused(
    plane: Plane, settings: Settings
) -> None:
    async with storm.opened(settings, settings) as found:
        tally = await found.slice(0, ROUNDS)
    assert tally.ok, tally
    assert tally.starts == ROUNDS * storm.PROCESSES * storm.EACH
    assert tally.runs >= ROUNDS
    assert tally.refused.buckets.total() > 0
