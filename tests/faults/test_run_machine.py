"""Runs and items in any order that anybody can think of, against a model in plain Python."""

import uuid
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from opsplane.auth.actors import Actor
from opsplane.config import Settings
from opsplane.runbooks import control, service
from opsplane.runbooks.control import NothingFailed
from opsplane.runbooks.locks import ScopeLocked
from opsplane.runbooks.models import Preflight
from opsplane.runbooks.preflights import PreflightStale
from opsplane.runbooks.service import Source, Started
from opsplane.runs import sweeper
from opsplane.runs.control import Ask
from opsplane.runs.leases import LeaseLost, RunNotRunning
from opsplane.runs.states import InvalidTransition
from tests import support
from tests.faults import run_checks, work
from tests.faults.machines import NAMES, World, campaign
from tests.faults.run_model import MAX_ATTEMPTS, Item, Run, holders
from tests.faults.work import Hand

OPERATOR = Actor.shell("machine")
GROUPS = ("test.effects.plain", "test.effects.fails")
WORKERS = [uuid.UUID(int=number) for number in (1, 2, 3)]
FOR_LONG, NOT_AT_ALL = 3600.0, 0.0
ROUNDS = 8
WITH_A_HAND = ("chunk", "finish", "chunk_begins", "fail", "take_over")
WITH_A_RUN = ("begin", "claim", "settle", "pause", "resume", "cancel", "retry")
REPAIRS = (sweeper.expand_queued, sweeper.free_leases, sweeper.settle_all, sweeper.fail_unrunnable)

scopes = st.sampled_from([None, *NAMES])
groups = st.sampled_from(GROUPS)
recent = st.integers(0, 3)  # the newest is 0
ends = st.sampled_from(["goes_on", "finishes", "dies"])


@dataclass(eq=False)
class Look:
    """A preflight."""

    kept: Preflight
    group: str
    tenant: str | None
    used: bool = False


class RunMachine(RuleBasedStateMachine):
    """Every rule does one thing to the product and to the model, and expects the same of both."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world, self.plane, self.settings = world, world.plane, world.settings
        self.runs: list[Run] = []
        self.hands: list[Hand] = []
        self.looks: list[Look] = []
        self.workers = "none"
        self.tokens: dict[Any, int] = {}
        world.empty()

    # ---- starting

    @rule(group=groups, tenant=scopes)
    def start(self, group: str, tenant: str | None) -> None:
        held = holders(self.runs, group, tenant)
        with _refused(ScopeLocked if held else None):
            started = self.world.do(support.start(self.plane, OPERATOR, group, tenant=tenant))
            self._started(started, Run(started.run.id, group, tenant))

    @rule(group=groups, tenant=scopes)
    def look(self, group: str, tenant: str | None) -> None:
        kept = self.world.do(service.preflight(self.plane, group, tenant, by=OPERATOR, source=Source.CLI))
        self.looks.append(Look(kept, group, tenant))

    @precondition(lambda self: self.looks)
    @rule(which=recent, tenant=scopes)
    def start_from_a_look(self, which: int, tenant: str | None) -> None:
        look = _newest(self.looks, which)
        held = holders(self.runs, look.group, tenant)
        stale = look.used or look.tenant != tenant
        with _refused(ScopeLocked if held else PreflightStale if stale else None):
            started = self.world.do(
                support.start(self.plane, OPERATOR, look.group, tenant=tenant, preflight_id=look.kept.id)
            )
            look.used = True
            self._started(started, Run(started.run.id, look.group, tenant))

    @precondition(lambda self: self.runs)
    @rule(which=recent)
    def retry_failed(self, which: int) -> None:
        old = _newest(self._that_are("completed"), which)
        nothing = old.status != "completed" or not old.failed()
        held = holders(self.runs, old.group, old.tenant)
        with _refused(NothingFailed if nothing else ScopeLocked if held else None):
            started = self.world.do(control.retry_failed(self.plane, old.id, by=OPERATOR, source=Source.CLI))
            self._started(started, Run(started.run.id, old.group, old.tenant, retry_of=old))

    def _started(self, started: Started, run: Run) -> None:
        assert not started.replayed
        self.runs.append(run)

    # ---- working

    @precondition(lambda self: self.runs)
    @rule(which=recent)
    def begin(self, which: int) -> None:
        run = _newest(self._that_are("queued"), which)
        assert self.world.do(work.begin(self.plane, run.id)) == run.begin()

    @precondition(lambda self: self.runs)
    @rule(which=recent, worker=st.sampled_from(WORKERS), lease_s=st.sampled_from([FOR_LONG, NOT_AT_ALL]))
    def claim(self, which: int, worker: uuid.UUID, lease_s: float) -> None:
        if not any(run.status == "running" for run in self.runs):
            self.begin(which)
        run = _newest(self._that_are("running"), which)
        lease = self.world.do(work.claim(self.plane, run.id, worker, lease_s))
        expected = run.next_item()
        assert (lease and lease.tenant_id) == (self.world.tenants[expected].id if expected else None)
        if lease is None or expected is None:
            return
        item = run.items[expected]
        item.state, item.token, item.over = "running", item.token + 1, lease_s == NOT_AT_ALL
        item.moved |= not item.started
        item.started = True
        assert (lease.token, lease.updated, lease.attempts, lease.losses) == (
            item.token, item.updated, item.attempts, item.lost,
        )  # fmt: skip
        self.hands.append(Hand(lease, run, item, lease_s))

    @precondition(lambda self: self._idle())
    @rule(which=recent, updated=st.integers(0, 3), then=ends)
    def chunk(self, which: int, updated: int, then: str) -> None:
        hand = _newest(self._idle(), which)
        if self._fenced(hand):
            self._ended(hand, updated, then)

    @precondition(lambda self: self._idle())
    @rule(which=recent)
    def chunk_begins(self, which: int) -> None:
        self._fenced(_newest(self._idle(), which))

    @precondition(lambda self: self._busy())
    @rule(which=recent, updated=st.integers(0, 3), then=ends)
    def chunk_ends(self, which: int, updated: int, then: str) -> None:
        self._ended(_newest(self._busy(), which), updated, then)

    def _fenced(self, hand: Hand) -> bool:
        lost = None if hand.is_good else LeaseLost
        with _refused(lost or (None if hand.run.status == "running" else RunNotRunning)):
            hand.chunk = self.world.do(work.open_chunk(self.plane, hand.lease))
        hand.item.held |= hand.chunk is not None
        if lost:
            self.hands.remove(hand)
        return hand.chunk is not None

    def _ended(self, hand: Hand, updated: int, then: str) -> None:
        assert hand.chunk is not None
        item, chunk, hand.chunk = hand.item, hand.chunk, None
        item.held = False
        if then == "dies":
            self.world.do(chunk.die(hand.lease))
            return
        last = then == "finishes"
        hand.lease = self.world.do(chunk.commit(hand.lease, updated=updated, lease_s=hand.lease_s, last=last))
        item.updated, item.attempts, item.lost = item.updated + updated, max(0, item.attempts - 1), 0
        item.over, item.moved = hand.lease_s == NOT_AT_ALL, True
        if last:
            item.state = "succeeded" if item.updated else "skipped"

    @precondition(lambda self: self._idle())
    @rule(which=recent)
    def fail(self, which: int) -> None:
        hand = _newest(self._idle(), which)
        with _refused(None if hand.is_good else LeaseLost):
            self.world.do(work.fail(self.plane, hand.lease))
            hand.item.state, hand.item.moved = "failed", True
        self.hands.remove(hand)

    @precondition(lambda self: self._idle())
    @rule(which=recent)
    def retry_later(self, which: int) -> None:
        hand = _newest(self._idle(), which)
        item = hand.item
        with _refused(None if hand.is_good else LeaseLost):
            again = self.world.do(work.retry_later(self.plane, hand.lease))
            item.attempts += 1
            assert again == (item.attempts < MAX_ATTEMPTS)
            if again:
                item.state, item.waits = "pending", True
                self.world.sql("UPDATE operation_run_items SET not_before = 'infinity' WHERE not_before > now()")
        if not hand.is_good:
            self.hands.remove(hand)

    @precondition(lambda self: self._idle())
    @rule(which=recent)
    def give_back(self, which: int) -> None:
        hand = _newest(self._idle(), which)
        self.world.do(work.give_back(self.plane, hand.lease))
        if hand.is_good:
            hand.item.state = "pending"

    # ---- time, and what it does

    @precondition(lambda self: self._idle())
    @rule(which=recent)
    def lease_runs_out(self, which: int) -> None:
        hand = _newest(self._idle(), which)
        if hand.is_good:
            self.world.sql(
                "UPDATE operation_run_items SET lease_until = 'epoch' WHERE run_id = $1 AND tenant_id = $2",
                hand.run.id, hand.lease.tenant_id,
            )  # fmt: skip
            hand.item.over = True

    @precondition(lambda self: self._idle())
    @rule(which=recent, worker=st.sampled_from(WORKERS))
    def another_takes_over(self, which: int, worker: uuid.UUID) -> None:
        """What makes a zombie; the rules that it takes seldom come in this order by themselves."""
        self.lease_runs_out(which)
        self.sweep_one_step(sweeper.free_leases)
        self.claim(0, worker, FOR_LONG)

    @precondition(lambda self: any(item.waits for item in self._items()))
    @rule()
    def waiting_is_over(self) -> None:
        self.world.sql("UPDATE operation_run_items SET not_before = 'epoch' WHERE not_before > now()")
        for item in self._items():
            item.waits = False

    @precondition(lambda self: self.runs and not self._busy())
    @rule()
    def all_grow_old(self) -> None:
        self.world.sql("UPDATE operation_runs SET created_at = 'epoch'")
        self.world.sql("UPDATE operation_runs SET resumed_at = 'epoch' WHERE resumed_at IS NOT NULL")
        for column in ("started_at", "progress_at", "finished_at"):
            self.world.sql(f"UPDATE operation_run_items SET {column} = 'epoch' WHERE {column} IS NOT NULL")
        for run in self.runs:
            run.old = True
        for item in self._items():
            item.moved = False

    @rule(kind=st.sampled_from(["none", "able", "unable"]))
    def workers_are(self, kind: str) -> None:
        self.workers = kind
        self.world.sql("DELETE FROM processes")
        if kind != "none":
            known = '{"test.effects.plain": 1, "test.effects.fails": 1}' if kind == "able" else "{}"
            self.world.sql(
                "INSERT INTO processes (id, kind, host, pid, version, slots, runbooks, seen_at)"
                " VALUES ($1, 'worker', 'here', 1, '1', 2, $2, now() + interval '1 day')",
                WORKERS[0], known,
            )  # fmt: skip

    @rule(step=st.sampled_from(sweeper.STEPS + REPAIRS * 2))
    def sweep_one_step(self, step: sweeper.Step) -> None:
        if step is sweeper.fail_unrunnable and self._busy():
            return  # it would wait for the chunk
        self.world.do(work.sweep_one(self.plane, step))
        self._sweep(step)

    @precondition(lambda self: self.runs and not self._busy())
    @rule()
    def sweep(self) -> None:
        self.world.do(sweeper.sweep(self.plane.db, self.plane.queue, self.settings))
        for step in sweeper.STEPS:
            self._sweep(step)

    def _sweep(self, step: sweeper.Step) -> None:
        for run in self.runs:
            if step is sweeper.expand_queued:
                run.begin()
            elif step is sweeper.free_leases:
                run.free_leases()
            elif step is sweeper.settle_all:
                run.settle()
            elif step is sweeper.fail_unrunnable:
                run.give_up(self.workers)

    @rule(
        story=st.lists(
            st.tuples(st.sampled_from(("start", "chunk_ends", *WITH_A_HAND, *WITH_A_RUN)), recent),
            min_size=5,
            max_size=15,
        )
    )
    def story(self, story: list[tuple[str, int]]) -> None:
        """Many at once: Hypothesis leaves out half of the rules in each example, and zombies need many of them."""
        self._tell(story)

    @rule()
    def some_fail_and_are_retried(self) -> None:
        self._tell([(act, 0) for act in ("start", "begin", "claim", "fail", "claim")])
        self._tell([("finish", 1), ("settle", 0), ("retry", 0), ("begin", 0)])

    def _tell(self, story: list[tuple[str, int]]) -> None:
        for act, which in story:
            possible = (act not in WITH_A_HAND or self._idle()) and (act not in WITH_A_RUN or self.runs)
            if possible and (act != "chunk_ends" or self._busy()):
                self._act(act, which)
                self.all_is_as_it_should_be()

    def _act(self, act: str, which: int) -> None:
        worker = WORKERS[which % 3]
        acts: dict[str, Callable[[], None]] = {
            "start": lambda: self.start(GROUPS[which % 2], (None, None, *NAMES)[which]),
            "begin": lambda: self.begin(which),
            "claim": lambda: self.claim(which, worker, FOR_LONG),
            "chunk": lambda: self.chunk(which, 1, "goes_on"),
            "finish": lambda: self.chunk(which, which % 2, "finishes"),
            "chunk_begins": lambda: self.chunk_begins(which),
            "chunk_ends": lambda: self.chunk_ends(which, 1, "goes_on"),
            "fail": lambda: self.fail(which),
            "take_over": lambda: self.another_takes_over(which, worker),
            "settle": lambda: self.settle(which),
            "pause": lambda: self.ask(which, Ask.PAUSE),
            "resume": lambda: self.ask(which, Ask.RESUME),
            "cancel": lambda: self.ask(which, Ask.CANCEL),
            "retry": lambda: self.retry_failed(which),
        }
        acts[act]()

    # ---- operators

    @precondition(lambda self: self.runs)
    @rule(which=recent, what=st.sampled_from(Ask))
    def ask(self, which: int, what: Ask) -> None:
        run = _newest(self._that_are("queued", "running", "pausing", "paused", "cancelling"), which)
        answer = run.ask(what)
        with _refused(InvalidTransition if answer == "refused" else None):
            shown = self.world.do(control.ask(self.plane, run.id, what, by=OPERATOR))
            assert (shown.status, shown.outcome) == (run.status, run.outcome)

    @precondition(lambda self: self.runs)
    @rule(which=recent)
    def settle(self, which: int) -> None:
        run = _newest(self.runs, which)
        assert self.world.do(work.settle(self.plane, run.id)) == run.settle()

    # ---- what always holds

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        self.world.steps += 1
        assert "sweep_step_failed" not in self.world.events()
        seen = run_checks.look(self.world)
        run_checks.hold(seen, self.tokens)
        self.tokens = seen.tokens()
        run_checks.agree(seen, self.runs, self.world)
        for look in self.looks:
            assert look.used == (str(look.kept.id) in seen.used_preflights)

    def teardown(self) -> None:
        """Whatever happened: once a worker lives, every run ends."""
        for hand in self._busy():
            assert hand.chunk is not None
            self.world.do(hand.chunk.die(hand.lease))
        self.workers_are("able")
        for run in self.runs:
            if run.status in {"paused", "pausing"}:
                self.world.do(control.ask(self.plane, run.id, Ask.RESUME, by=OPERATOR))
        for _ in range(ROUNDS):
            self._work_for_a_while()
            seen = run_checks.look(self.world)
            if all(run["status"] == "completed" for run in seen.runs):
                break
        run_checks.hold(seen, self.tokens)
        assert [run["status"] for run in seen.runs if run["status"] != "completed"] == []

    def _work_for_a_while(self) -> None:
        self.world.sql(
            "UPDATE operation_run_items SET not_before = NULL, lease_until = CASE WHEN state = 'running'"
            " THEN 'epoch'::timestamptz END WHERE state IN ('pending', 'running')"
        )
        self.world.do(sweeper.sweep(self.plane.db, self.plane.queue, self.settings))
        for row in self.world.sql("SELECT id FROM operation_runs WHERE status = 'running'"):
            self.world.do(support.drain(self.plane, row["id"]))

    def _that_are(self, *statuses: str) -> list[Run]:
        """Runs in these statuses, for most rules do little to others; now and then there is none, then any."""
        return [run for run in self.runs if run.status in statuses] or self.runs

    def _idle(self) -> list[Hand]:
        return [hand for hand in self.hands if hand.chunk is None]

    def _busy(self) -> list[Hand]:
        return [hand for hand in self.hands if hand.chunk is not None]

    def _items(self) -> list[Item]:
        return [item for run in self.runs for item in run.items.values()]


def _refused(expected: type[Exception] | None) -> Any:
    return pytest.raises(expected) if expected else nullcontext()


def _newest(found: list[Any], which: int) -> Any:
    return found[-1 - which % len(found)]


@pytest.mark.timeout(0)  # shrinking what it finds, or a campaign, takes long
def test_runs_and_items_are_what_the_model_says_whatever_happens_in_whatever_order(settings: Settings) -> None:
    with World(settings) as world, run_checks.watching(world):
        campaign(world, "runs and items", lambda: RunMachine(world), examples=8)
