"""The size of chunks follows their time."""

from hypothesis import given
from hypothesis import strategies as st

from opsplane.runs.chunks import ChunkSize


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
