"""When a database has trouble, and how fast a run goes then: pure judgements over one reading."""

import pytest

from opsplane.config import Settings
from opsplane.runs import words
from opsplane.runs.states import Outcome, Status
from opsplane.runs.throttling import signals
from opsplane.runs.throttling.readings import Reading, Replica
from opsplane.runs.throttling.signals import BARELY, HALF, SHARED, STOP, Judgement, Signal
from opsplane.runs.throttling.verdicts import Level, Verdict

SETTINGS = Settings(
    throttle_replica_lag_s=10, throttle_lock_wait_s=2, throttle_wal_mb_s=100,
    throttle_active_connections=50, throttle_connections_percent=80,
)  # fmt: skip
OFF = Settings(
    throttle_replica_lag_s=0, throttle_lock_wait_s=0, throttle_wal_mb_s=0,
    throttle_active_connections=0, throttle_connections_percent=0, throttle_vacuum=False,
)  # fmt: skip
EVERYTHING = Reading(
    replica=Replica("one", 999, 999), lock_wait_s=999, active=999, connections=100, max_connections=100,
    vacuums={"findings": True}, wal_mb_s=999,
)  # fmt: skip
JUDGED = [
    (Reading(), None),
    (Reading(replica=Replica("one", 0, 0)), None),
    (Reading(replica=Replica("one", 10, 5)), None),
    (Reading(replica=Replica("one", 14, 0.2)), (Signal.REPLICA_LAG, BARELY, "replica one is 14 s behind")),
    (Reading(replica=Replica("walreceiver", 20, 0)), (Signal.REPLICA_LAG, BARELY, "replica is 20 s behind")),
    (Reading(replica=Replica("", 20.5, 2048)), (Signal.REPLICA_LAG, STOP, "replica is 20 s and 2,048 MB behind")),
    (Reading(lock_wait_s=2), None),
    (
        Reading(lock_wait_s=30),
        (Signal.LOCK_WAITS, BARELY, "another session has waited 30 s for a lock of opsplane's"),
    ),
    (Reading(wal_mb_s=None), None),
    (Reading(wal_mb_s=100), None),
    (Reading(wal_mb_s=150), (Signal.WAL_RATE, BARELY, "the database writes 150 MB of WAL a second")),
    (Reading(wal_mb_s=201), (Signal.WAL_RATE, STOP, "the database writes 201 MB of WAL a second")),
    (Reading(active=50), None),
    (Reading(active=51), (Signal.ACTIVE_CONNECTIONS, SHARED, "51 other sessions are executing something")),
    (Reading(active=200), (Signal.ACTIVE_CONNECTIONS, SHARED, "200 other sessions are executing something")),
    (Reading(active=201), (Signal.ACTIVE_CONNECTIONS, STOP, "201 other sessions are executing something")),
    (Reading(active=40, earlier=(30, 70)), None),
    (
        Reading(active=51.4, earlier=(0, 0)),
        (Signal.ACTIVE_CONNECTIONS, SHARED, "51.4 other sessions are executing something"),
    ),
    (
        Reading(active=0, earlier=(1000, 1001, 40, 0)),
        (Signal.ACTIVE_CONNECTIONS, STOP, "408.2 other sessions are executing something"),
    ),
    (
        Reading(active=51, at_work=4),
        (Signal.ACTIVE_CONNECTIONS, SHARED / 4, "51 other sessions are executing something"),
    ),
    (Reading(connections=80), None),
    (Reading(connections=81), (Signal.CONNECTIONS, HALF, "81 of 100 connections are in use")),
    (Reading(connections=81, max_connections=200), None),
    (Reading(vacuums={"other": True, "app.findings": True}), None),
    (Reading(vacuums={"findings": False}), (Signal.VACUUM, HALF, "findings is being vacuumed")),
    (
        Reading(vacuums={"findings": True}),
        (Signal.VACUUM, BARELY, "findings is being vacuumed, to prevent wraparound of transaction ids"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("reading", "expected"), JUDGED)
def test_a_signal_speaks_above_its_limit_and_may_stop_runs_far_above_it(
    reading: Reading, expected: tuple[Signal, float, str] | None
) -> None:
    found = [(one.signal, one.least, one.reason) for one in signals.judge(reading, "findings", SETTINGS)]
    assert found == ([] if expected is None else [expected])


def test_a_limit_of_0_is_none_and_by_default_neither_wal_nor_active_sessions_have_one() -> None:
    assert signals.judge(EVERYTHING, "findings", OFF) == []
    unlimited = {Signal.WAL_RATE, Signal.ACTIVE_CONNECTIONS}
    assert {one.signal for one in signals.judge(EVERYTHING, "findings", Settings())} == set(Signal) - unlimited


def test_the_worst_signal_comes_first_and_a_runbook_by_hand_has_no_table() -> None:
    found = signals.judge(EVERYTHING, None, SETTINGS)
    assert (found[0].least, found[-1].least) == (STOP, HALF)
    assert Signal.VACUUM not in {one.signal for one in found}


def test_the_rate_of_wal_takes_two_readings() -> None:
    first, second = Reading(at=100, wal_mb=1000), Reading(at=102, wal_mb=1300)
    assert second.since(first).wal_mb_s == 150
    assert second.since(None).wal_mb_s is None
    assert second.since(Reading(at=100)).wal_mb_s is None
    assert Reading(at=104, wal_mb=10).since(second).wal_mb_s == 0  # of another server, after a failover


def test_a_crowd_counts_at_once_and_is_remembered_over_five_readings() -> None:
    reading = Reading(active=100)
    for active in (5, 4, 3, 2, 1):
        reading = Reading(active=active).since(reading)
    assert (reading.earlier, reading.busy) == ((5, 4, 3, 2), 3)
    assert Reading(active=7).since(reading).busy == 7
    assert Reading(at=12, active=1).since(reading).busy == pytest.approx(11 / 5)  # the longest of rests ends in time
    assert Reading(at=60, active=1).since(reading).busy == 1  # what was before somebody looked again is long ago


def test_drains_that_all_had_to_stop_share_what_is_left_when_they_go_on() -> None:
    stopped = Reading(at_work=0).since(Reading(at_work=3))
    assert stopped.at_work == 3
    assert Reading(at_work=1).since(stopped).at_work == 1


BAD, MILD, WORST, LITTLE = (Judgement(Signal.WAL_RATE, "much", least) for least in (BARELY, HALF, STOP, BARELY / 2))


@pytest.mark.parametrize(("judged", "shares"), [
    ([None, None], [1, 1]),
    ([BAD, BAD], [1 / 8, 1 / 8]),
    ([LITTLE, None, None], [1 / 16, 1 / 8, 1 / 4]),
    ([MILD, MILD, MILD], [1 / 2, 1 / 2, 1 / 2]),
    ([BAD, None, BAD, None, None, None, None], [1 / 8, 1 / 4, 1 / 8, 1 / 4, 1 / 2, 1, 1]),
    ([WORST, WORST, None, None, None, None], [0, 0, 1 / 8, 1 / 4, 1 / 2, 1]),
    ([WORST, BAD, BAD], [0, 1 / 8, 1 / 8]),
    ([WORST, MILD, MILD, MILD, MILD], [0, 1 / 8, 1 / 4, 1 / 2, 1 / 2]),
])  # fmt: skip
def test_trouble_takes_the_pace_away_at_once_and_it_comes_back_in_steps(
    judged: list[Judgement | None], shares: list[float]
) -> None:
    verdict, seen = Verdict(), []
    for one in judged:
        verdict = verdict.after(one)
        seen.append(verdict.share)
        assert (verdict.reason is None) == (verdict.level is Level.GO) == (verdict.share == 1)
    assert seen == shares


@pytest.mark.parametrize(("share", "worked_s", "rest_s"), [
    (1, 0.25, 0), (1 / 2, 0.25, 0.25), (1 / 4, 0.25, 0.75), (1 / 8, 0.25, 1.75), (1 / 8, 2, 5), (0, 0.25, 0),
])  # fmt: skip
def test_a_rest_leaves_work_its_share_and_is_never_long(share: float, worked_s: float, rest_s: float) -> None:
    assert Verdict(share, None if share == 1 else BAD).rest_s(worked_s) == rest_s


def test_a_throttled_run_says_why_and_that_nobody_need_do_anything() -> None:
    said = words.next_step(Status.RUNNING, Outcome.PENDING, stalled=False, throttled="replica is 14 s behind")
    assert said.startswith("Throttled: replica is 14 s behind. ")
    assert "by itself" in said
    assert "opsplane worker" in words.next_step(Status.RUNNING, Outcome.PENDING, stalled=True, throttled="x")


@pytest.mark.parametrize(("value", "is_on"), [("off", False), ("on", True), ("0", False)])
def test_it_is_switched_off_by_one_word(value: str, is_on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSPLANE_THROTTLE", value)
    monkeypatch.setenv("OPSPLANE_THROTTLE_IGNORED_REPLICAS", "delayed, backup ")
    assert Settings().throttle is is_on
    assert Settings().ignored_replicas == ["delayed", "backup"]
