"""Workers beside `up` and `demo`: one that dies is replaced, one that cannot start is given up."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from opsplane import fleet
from opsplane.errors import ServiceUnavailable
from opsplane.fleet import Fleet


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "LOOK_S", 0.05)


@pytest.fixture
def started() -> Iterator[list[Fleet]]:
    fleets: list[Fleet] = []
    yield fleets
    for one in fleets:
        one.end()


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.02)


def test_a_worker_that_dies_is_replaced(tmp_path: Path, started: list[Fleet], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "YOUNG_S", 0.0)
    births = tmp_path / "births"
    code = f"import os, time; open({str(births)!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(60)"
    started.append(Fleet([sys.executable, "-c", code], dict(os.environ), 1))

    def pids() -> list[int]:
        return [int(line) for line in births.read_text().split()] if births.exists() else []

    for count in range(1, 6):  # more often than a worker may die young
        until(lambda wanted=count: len(pids()) == wanted)  # type: ignore[misc]
        os.kill(pids()[-1], 9)
    until(lambda: len(pids()) == 6)
    started[0].require_alive()


def test_waiting_for_workers_that_cannot_start_is_an_error_that_names_their_exit_codes(started: list[Fleet]) -> None:
    started.append(Fleet([sys.executable, "-c", "exit(3)"], dict(os.environ), 2))

    def given_up() -> str | None:
        try:
            started[0].require_alive()
        except ServiceUnavailable as error:
            return error.message
        return None

    until(lambda: given_up() is not None)
    assert "exit codes 3, 3" in (given_up() or "")


def test_ctrl_c_in_the_terminal_is_not_heard_by_workers_which_are_asked_to_end_once(started: list[Fleet]) -> None:
    sleeping = "import time; time.sleep(60)"
    started.append(Fleet([sys.executable, "-c", sleeping], dict(os.environ), 1))
    [place] = started[0]._places
    assert os.getpgid(place.process.pid) == place.process.pid != os.getpgid(0)


def test_an_ending_fleet_replaces_nobody(tmp_path: Path, started: list[Fleet]) -> None:
    births = tmp_path / "births"
    code = f"import time; open({str(births)!r}, 'a').write('x'); time.sleep(60)"
    one = Fleet([sys.executable, "-c", code], dict(os.environ), 2)
    until(lambda: births.exists() and len(births.read_text()) == 2)
    one.end()
    time.sleep(0.3)
    assert births.read_text() == "xx"
