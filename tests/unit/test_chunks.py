"""The size of chunks follows their time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsplane.config import Settings
from opsplane.runs.chunks import ChunkSize, Pace


def size() -> ChunkSize:
    return ChunkSize(smallest=500, largest=10_000, target_s=0.25)


def test_a_fast_chunk_makes_the_next_one_larger_at_most_twofold() -> None:
    chunks = size()
    chunks.observe(1000, 0.001)
    assert chunks.rows == 2000


def test_a_slow_chunk_makes_the_next_one_smaller_at_most_by_half() -> None:
    chunks = size()
    chunks.observe(1000, 30)
    assert chunks.rows == 500


def test_a_chunk_that_was_not_full_and_fast_says_nothing() -> None:
    chunks = size()
    chunks.observe(3, 0.001)
    assert chunks.rows == 1000


@given(st.lists(st.tuples(st.integers(0, 20_000), st.floats(0, 100)), max_size=50))
def test_whatever_is_observed_the_size_stays_within_its_bounds(observed: list[tuple[int, float]]) -> None:
    chunks = size()
    for rows, seconds in observed:
        chunks.observe(rows, seconds)
        assert 500 <= chunks.rows <= 10_000


def test_speed_settles_at_the_target() -> None:
    chunks = size()
    for _ in range(12):
        chunks.observe(chunks.rows, chunks.rows / 20_000)
    assert chunks.rows == 5000


def test_a_claim_takes_twice_as_many_tenants_while_they_are_quick_and_only_one_where_one_is_large() -> None:
    pace = Pace(Settings(), bundled=True)
    claims = []
    for _ in range(10):
        pace.carried(pace.tenants, 0.001)
        claims.append(pace.tenants)
    assert claims == [8, 16, 32, 64, 128, 256, 256, 256, 256, 256]
    pace.carried(0, 1.0)  # the first of them was too large for one chunk
    assert pace.tenants == 1
    pace.carried(1, 0.001)
    assert pace.tenants == 2


def test_a_claim_takes_no_more_tenants_than_fit_into_the_time_of_a_chunk() -> None:
    pace = Pace(Settings(chunk_target_ms=200), bundled=True)
    pace.tenants = 100
    pace.carried(100, 0.4)
    assert pace.tenants == 50
    pace.carried(3, 0.03)  # the last few of a claim
    assert pace.tenants == 20


def test_tenants_of_a_runbook_that_is_not_bundled_are_claimed_one_by_one() -> None:
    pace = Pace(Settings(), bundled=False)
    pace.carried(1, 0.001)
    assert pace.tenants == 1


@pytest.mark.parametrize(("smallest", "most", "largest"), [(500, None, 10_000), (500, 2000, 2000), (5000, 2000, 5000)])
def test_a_chunk_takes_no_more_rows_than_gain_anything_unless_the_setting_asks_for_more(
    smallest: int, most: int | None, largest: int
) -> None:
    pace = Pace(Settings(chunk_min_rows=smallest), bundled=True, most_rows=most)
    for _ in range(12):
        pace.size.observe(pace.size.rows, 0.001)
    assert pace.size.rows == largest


def test_where_others_come_first_a_chunk_takes_as_few_rows_as_it_may() -> None:
    pace = Pace(Settings(chunk_min_rows=500), bundled=True, most_rows=2000)
    pace.size.rows = 2000
    assert pace.rows == 2000
    pace.gentle = True
    assert pace.rows == 500
    pace.size.rows = 100
    assert pace.rows == 100
