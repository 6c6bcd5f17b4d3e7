"""The checker is not blind: a history with one thing wrong is told from the one that is right."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.faults import history
from tests.faults.history import COMPLETED, STARTED, Audited, Effect, History, Item, Move, Run, Wrong

START = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = 4
Doctor = Callable[[History], None]


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def right() -> History:
    """One run over two tenants; the second one's first worker fell silent after two marks."""
    moves = [
        Move(serial=1, run_id="r", was=None, becomes="queued", at=at(0)),
        Move(serial=2, run_id="r", was="queued", becomes="running", at=at(1)),
        item_move(3, "a", "pending", "running", token=1),
        item_move(8, "a", "running", "succeeded", token=1),
        item_move(9, "b", "pending", "running", token=1),
        item_move(12, "b", "running", "pending", token=2, seconds=40),
        item_move(13, "b", "pending", "running", token=3),
        item_move(16, "b", "running", "succeeded", token=3),
        Move(serial=17, run_id="r", was="running", becomes="completed", at=at(50)),
    ]
    marks = [mark(4 + n, "a", n) for n in range(4)]
    marks += [
        mark(10, "b", 0),
        mark(11, "b", 1),
        mark(14, "b", 2, token=3, by="w2"),
        mark(15, "b", 3, token=3, by="w2"),
    ]
    counts = {"updated": 8, "total": 2, "succeeded": 2, "failed": 0, "skipped": 0, "processed": 2}
    return History(
        rows=ROWS,
        tenants=2,
        runs=[
            Run(id="r", group="g", tenant=None, status="completed", outcome="succeeded", counts=counts, updated=8,
                created_at=at(0), completed_at=at(50)),
        ],
        items=[Item(run_id="r", key=key, state="succeeded", updated=4) for key in "ab"],
        effects=marks,
        moves=moves,
        audited=[Audited("r", STARTED), Audited("r", COMPLETED)],
        starts={"key": ["r", "r"]},
    )  # fmt: skip


def item_move(serial: int, key: str, was: str, becomes: str, *, token: int, seconds: float = 0) -> Move:
    token_was = token - 1 if becomes in {"running", "pending"} else token
    until = at(seconds or 30) if was == "running" else None
    return Move(
        serial=serial, run_id="r", was=was, becomes=becomes, at=at(seconds or serial), key=key, token_was=token_was,
        token=token, lease_until_was=until,
    )  # fmt: skip


def mark(serial: int, key: str, n: int, *, token: int = 1, by: str = "w1") -> Effect:
    worker = int(by[1:])
    return Effect(serial=serial, run_id="r", key=key, token=token, leased_by=by, state="running", n=n, worker=worker)


def lose_a_mark(found: History) -> None:
    del found.effects[1]


def lose_the_last_mark(found: History) -> None:
    del found.effects[3]
    found.items[0] = replace(found.items[0], updated=3)


def skip_a_tenant(found: History) -> None:
    del found.effects[:4]
    found.items[0] = replace(found.items[0], state="skipped", updated=0)
    found.moves[3] = replace(found.moves[3], becomes="skipped")
    counts = {"updated": 4, "total": 2, "succeeded": 1, "failed": 0, "skipped": 1, "processed": 2}
    found.runs[0] = replace(found.runs[0], counts=counts, updated=4)


def mark_twice(found: History) -> None:
    found.effects.append(replace(found.effects[0], serial=7))


def mark_a_strange_run(found: History) -> None:
    found.effects.append(replace(found.effects[0], run_id="gone"))


def count_an_item_wrong(found: History) -> None:
    found.items[0] = replace(found.items[0], updated=5)


def count_the_run_wrong(found: History) -> None:
    found.runs[0] = replace(found.runs[0], counts={**found.runs[0].counts, "updated": 7})


def say_another_number(found: History) -> None:
    found.runs[0] = replace(found.runs[0], updated=7)


def forget_a_tenant(found: History) -> None:
    found.tenants = 3


def write_after_the_end(found: History) -> None:
    found.effects[3] = replace(found.effects[3], serial=100)


def write_after_the_end_unnoticed_by_the_order(found: History) -> None:
    found.effects[3] = replace(found.effects[3], state="succeeded")


def write_while_the_run_is_paused(found: History) -> None:
    found.moves.insert(6, Move(serial=12, run_id="r", was="running", becomes="pausing", at=at(41)))
    found.moves.insert(7, Move(serial=13, run_id="r", was="pausing", becomes="paused", at=at(42)))
    found.moves.append(Move(serial=15, run_id="r", was="paused", becomes="running", at=at(43)))


def write_while_nobody_holds_it(found: History) -> None:
    found.effects[5] = replace(found.effects[5], serial=12)
    found.moves[5] = replace(found.moves[5], serial=11)


def write_under_an_older_lease(found: History) -> None:
    found.effects[7] = replace(found.effects[7], token=1)


def write_under_the_lease_of_another(found: History) -> None:
    found.effects[7] = replace(found.effects[7], worker=1)


def claim_twice(found: History) -> None:
    found.moves.insert(3, item_move(5, "a", "running", "running", token=2))


def claim_with_the_same_token(found: History) -> None:
    found.moves[6] = replace(found.moves[6], token=2)
    found.effects[6:] = [replace(effect, token=2) for effect in found.effects[6:]]


def take_a_lease_early(found: History) -> None:
    found.moves[5] = replace(found.moves[5], at=at(29), lease_until_was=at(30))


def reopen_an_item(found: History) -> None:
    found.moves.append(item_move(18, "a", "succeeded", "pending", token=2))


def reopen_the_run(found: History) -> None:
    found.moves.append(Move(serial=18, run_id="r", was="completed", becomes="running", at=at(51)))


def complete_twice(found: History) -> None:
    found.moves.append(Move(serial=18, run_id="r", was="completed", becomes="completed", at=at(51)))


def complete_twice_on_record(found: History) -> None:
    found.audited.append(Audited("r", COMPLETED))


def forget_the_record_of_the_start(found: History) -> None:
    found.audited.pop(0)


def never_complete(found: History) -> None:
    found.runs[0] = replace(found.runs[0], status="running", outcome="pending", completed_at=None)
    found.moves.pop()
    found.audited.pop()


def keep_a_lease(found: History) -> None:
    found.items[0] = replace(found.items[0], leased=True)


def fail_without_a_cause(found: History) -> None:
    found.items[0] = replace(found.items[0], state="failed", failure="worker_lost", lost=3)


def start_two_runs_for_one_key(found: History) -> None:
    found.starts = {"key": ["r", "s"]}


def start_a_run_nobody_was_told_of(found: History) -> None:
    found.starts = {}


def run_twice_at_once(found: History) -> None:
    found.runs.append(replace(found.runs[0], id="s", tenant="a", created_at=at(49), completed_at=at(60)))


DOCTORS: list[tuple[Doctor, Wrong]] = [
    (lose_a_mark, Wrong.LOST),
    (lose_the_last_mark, Wrong.LOST),
    (skip_a_tenant, Wrong.LOST),
    (forget_a_tenant, Wrong.LOST),
    (mark_twice, Wrong.DUPLICATE),
    (mark_a_strange_run, Wrong.DUPLICATE),
    (count_an_item_wrong, Wrong.DRIFT),
    (count_the_run_wrong, Wrong.DRIFT),
    (say_another_number, Wrong.DRIFT),
    (write_after_the_end, Wrong.LATE),
    (write_after_the_end_unnoticed_by_the_order, Wrong.LATE),
    (write_while_the_run_is_paused, Wrong.LATE),
    (write_while_nobody_holds_it, Wrong.LATE),
    (write_under_an_older_lease, Wrong.LATE),
    (write_under_the_lease_of_another, Wrong.LATE),
    (claim_twice, Wrong.OVERLAP),
    (claim_with_the_same_token, Wrong.OVERLAP),
    (take_a_lease_early, Wrong.OVERLAP),
    (run_twice_at_once, Wrong.OVERLAP),
    (reopen_an_item, Wrong.MOVE),
    (reopen_the_run, Wrong.MOVE),
    (complete_twice, Wrong.DOUBLE),
    (start_two_runs_for_one_key, Wrong.DOUBLE),
    (start_a_run_nobody_was_told_of, Wrong.DOUBLE),
    (complete_twice_on_record, Wrong.AUDIT),
    (forget_the_record_of_the_start, Wrong.AUDIT),
    (never_complete, Wrong.STUCK),
    (keep_a_lease, Wrong.STUCK),
    (fail_without_a_cause, Wrong.FAILED),
]


def test_a_right_history_has_no_problem() -> None:
    assert history.check(right()) == []


@pytest.mark.parametrize(("doctor", "wrong"), DOCTORS, ids=lambda each: getattr(each, "__name__", None))
def test_what_is_wrong_is_found(doctor: Doctor, wrong: Wrong) -> None:
    found = right()
    doctor(found)
    problems = history.check(found)
    assert wrong in {problem.what for problem in problems}, [str(problem) for problem in problems]


def test_an_item_may_fail_with_an_excuse_and_only_as_far_as_it_counts() -> None:
    found = right()
    fail_without_a_cause(found)
    found.runs[0] = replace(
        found.runs[0], outcome="partially_succeeded", counts={**found.runs[0].counts, "succeeded": 1, "failed": 1}
    )
    found.moves[3] = replace(found.moves[3], becomes="failed")
    found.excused = frozenset({"worker_lost"})
    assert history.check(found) == []
