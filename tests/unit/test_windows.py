"""Counting requests in fixed windows."""

import pytest

from opsplane.api.windows import Windows


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("opsplane.api.windows.time.time", lambda: now[0])
    return now


def test_a_window_counts_until_it_ends_and_then_from_the_beginning(clock: list[float]) -> None:
    counted = Windows()
    assert [counted.incr("a", 60), counted.incr("a", 60), counted.incr("b", 60)] == [1, 2, 1]
    clock[0] += 59
    assert (counted.get("a"), counted.incr("a", 60), counted.get_expiry("a")) == (2, 3, 1060)
    clock[0] += 1
    assert (counted.get("a"), counted.incr("a", 60)) == (0, 1)


def test_windows_that_have_ended_take_no_memory(clock: list[float]) -> None:
    counted = Windows()
    for number in range(1000):
        counted.incr(str(number), 60)
    clock[0] += 61
    counted.incr("later", 60)
    assert counted.reset() == 1
