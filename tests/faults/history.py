"""The checker: given everything that was written down of a schedule, what must never be so and is.

It knows the promises and nothing of the product's code, so that it cannot share a mistake with it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import zip_longest
from math import inf
from typing import TypeVar

PENDING, RUNNING = "pending", "running"
ENDED = frozenset({"succeeded", "failed", "skipped", "cancelled"})
OPEN = frozenset({PENDING, RUNNING})
GOOD = frozenset({"succeeded", "skipped"})  # the runbooks here have marks to leave in every tenant: none may be skipped
RUN_MOVES = {
    None: {"queued"},
    "queued": {"running", "cancelling", "completed"},
    "running": {"pausing", "cancelling", "completed"},
    "pausing": {"paused", "running", "cancelling", "completed"},
    "paused": {"running", "cancelling"},
    "cancelling": {"completed"},
    "completed": set(),
}
COMPLETED, FAILED, STARTED = (f"platform.ops.runbooks.{act}" for act in ("completed", "failed", "started"))


class Wrong(StrEnum):
    """What can be wrong; the values are what the summary counts."""

    LOST = "lost"
    DUPLICATE = "duplicate"
    DRIFT = "drift"
    DOUBLE = "double"  # completed twice, or a start that made two runs
    LATE = "late"  # written after the end, or under a lease that another had taken
    OVERLAP = "overlap"  # two claims of one item, or two runs of one scope
    MOVE = "move"  # a state that may not follow
    STUCK = "stuck"
    FAILED = "failed"  # an item that failed without a cause
    AUDIT = "audit"
    LEAK = "leak"
    EXIT = "exit"  # a process ended by itself
    CLIENT = "client"
    HARNESS = "harness"  # the fault itself went wrong


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    what: Wrong
    said: str

    def __str__(self) -> str:
        return f"{self.what}: {self.said}"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as it is in the end."""

    id: str
    group: str
    tenant: str | None
    status: str
    outcome: str
    counts: Mapping[str, int]
    updated: int | None  # of its context
    created_at: datetime
    completed_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Item:
    """An item as it is in the end; `failure` is the code it failed with."""

    run_id: str
    key: str
    state: str
    updated: int
    lost: int = 0
    leased: bool = False
    failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One mark of the runbook."""

    serial: int
    run_id: str
    key: str
    token: int
    leased_by: str | None
    state: str
    n: int
    worker: int


@dataclass(frozen=True, kw_only=True)
class Move:
    """A state that followed another; of an item if it has a key."""

    serial: int
    run_id: str
    was: str | None
    becomes: str
    at: datetime
    key: str | None = None
    token_was: int = 0
    token: int = 0
    lease_until_was: datetime | None = None


@dataclass(frozen=True)
class Audited:
    """An audit event of a run."""

    run_id: str
    action: str


@dataclass
class History:
    """Everything of one schedule; `rows` is how many marks a tenant has when it is done."""

    rows: int
    runs: list[Run] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    audited: list[Audited] = field(default_factory=list)
    starts: dict[str, list[str]] = field(default_factory=dict)  # the runs that were answered, by key
    tenants: int = 0
    excused: frozenset[str] = frozenset()  # codes an item may fail with, because of what was done to it


Fact = TypeVar("Fact", Effect, Move)


def check(history: History) -> list[Problem]:
    """Everything that is wrong."""
    checks = (_marks, _late, _counts, _run_moves, _item_moves, _scopes, _audit, _starts, _stuck)
    return [problem for each in checks for problem in each(history)]


def _marks(history: History) -> Iterator[Problem]:
    marks = _by_item(history.effects)
    known = {(item.run_id, item.key) for item in history.items}
    for name in marks.keys() - known:
        yield Problem(Wrong.DUPLICATE, f"{_named(name)} is marked, and no run here has it")
    for item in history.items:
        found = Counter(effect.n for effect in marks[item.run_id, item.key])
        if twice := sorted(n for n, times in found.items() if times > 1):
            yield Problem(Wrong.DUPLICATE, f"{_of(item)}: {twice}")
        if item.state in GOOD and (missing := sorted(set(range(history.rows)) - found.keys())):
            yield Problem(Wrong.LOST, f"{_of(item)} {item.state} without {missing}")
        if found and (gaps := sorted(set(range(max(found))) - found.keys())):
            yield Problem(Wrong.LOST, f"{_of(item)} has gaps: {gaps}")
        if item.updated != found.total():
            yield Problem(Wrong.DRIFT, f"{_of(item)} counts {item.updated} and has {found.total()} marks")
        if item.state == "failed" and item.failure not in history.excused:
            yield Problem(Wrong.FAILED, f"{_of(item)}: {item.failure}, lost {item.lost} times")


def _late(history: History) -> Iterator[Problem]:
    owners: dict[str | None, set[int]] = defaultdict(set)
    moves = _by_item(move for move in history.moves if move.key is not None)
    for name, effects in _by_item(history.effects).items():
        for effect in effects:
            owners[effect.leased_by].add(effect.worker)
            before = [move for move in moves[name] if move.serial < effect.serial]
            if effect.state != RUNNING or (before and before[-1].becomes != RUNNING):
                yield Problem(Wrong.LATE, f"{_named(name)}: {effect.n} was written while nobody held it")
            elif not before or before[-1].token != effect.token:
                yield Problem(Wrong.LATE, f"{_named(name)}: {effect.n} was written under an older lease")
    yield from _at_rest(history)
    for owner, workers in owners.items():
        if len(workers) > 1:
            yield Problem(Wrong.LATE, f"processes {sorted(workers)} wrote under the leases of {owner}")


def _at_rest(history: History) -> Iterator[Problem]:
    """What was written while the run itself was paused or over."""
    for run in history.runs:
        moves = [move for move in history.moves if move.key is None and move.run_id == run.id]
        for move, follower in zip_longest(moves, moves[1:]):
            if move.becomes not in {"paused", "completed"}:
                continue
            ends = follower.serial if follower else inf
            late = [each for each in history.effects if each.run_id == run.id and move.serial < each.serial < ends]
            if late:
                yield Problem(Wrong.LATE, f"run {run.id} was {move.becomes} and got {len(late)} marks")


def _counts(history: History) -> Iterator[Problem]:
    for run in history.runs:
        items = [item for item in history.items if item.run_id == run.id]
        updated = sum(item.updated for item in items)
        states = Counter(item.state for item in items)
        expected = {
            "updated": updated, "total": len(items), "succeeded": states["succeeded"], "failed": states["failed"],
            "skipped": states["skipped"], "processed": sum(states[state] for state in ENDED),
        }  # fmt: skip
        wrong = {
            name: (run.counts.get(name), count) for name, count in expected.items() if run.counts.get(name) != count
        }
        if run.status == "completed" and (wrong or run.updated != updated):
            yield Problem(Wrong.DRIFT, f"run {run.id} says {wrong or run.updated}, its items say {updated}")
        wanted = 1 if run.tenant else history.tenants
        if run.outcome != "cancelled" and len(items) != wanted:
            yield Problem(Wrong.LOST, f"run {run.id} has {len(items)} of {wanted} tenants")


def _run_moves(history: History) -> Iterator[Problem]:
    for run in history.runs:
        at: str | None = None
        moves = [move for move in history.moves if move.key is None and move.run_id == run.id]
        for move in moves:
            if move.was != at or move.becomes not in RUN_MOVES[at]:
                yield Problem(Wrong.MOVE, f"run {run.id} went from {at} ({move.was}) to {move.becomes}")
            at = move.becomes
        if at != run.status:
            yield Problem(Wrong.MOVE, f"run {run.id} is {run.status} after {at}")
        if sum(move.becomes == "completed" for move in moves) > 1:
            yield Problem(Wrong.DOUBLE, f"run {run.id} was completed twice")


def _item_moves(history: History) -> Iterator[Problem]:
    for name, moves in _by_item(move for move in history.moves if move.key is not None).items():
        state, token = PENDING, 0
        for move in moves:
            if move.was != state or move.was in ENDED:
                yield Problem(Wrong.MOVE, f"{_named(name)} went from {state} ({move.was}) to {move.becomes}")
            if move.becomes == RUNNING and (move.was != PENDING or move.token <= token):
                yield Problem(Wrong.OVERLAP, f"{_named(name)} was claimed twice: {token}, {move.token}")
            taken = move.was == RUNNING and move.becomes == PENDING and move.token > move.token_was
            if taken and move.lease_until_was is not None and move.at < move.lease_until_was:
                yield Problem(Wrong.OVERLAP, f"{_named(name)} was taken away before its lease was over")
            state, token = move.becomes, max(token, move.token)


def _scopes(history: History) -> Iterator[Problem]:
    for at, one in enumerate(history.runs):
        for other in history.runs[at + 1 :]:
            if one.group == other.group and (None in (one.tenant, other.tenant) or one.tenant == other.tenant):
                first, second = sorted((one, other), key=lambda run: run.created_at)
                if first.completed_at is None or first.completed_at > second.created_at:
                    yield Problem(Wrong.OVERLAP, f"runs {first.id} and {second.id} held the same scope")


def _audit(history: History) -> Iterator[Problem]:
    events = Counter((event.run_id, event.action) for event in history.audited)
    for run in history.runs:
        started, ended = events[run.id, STARTED], events[run.id, COMPLETED] + events[run.id, FAILED]
        if started != 1 or (run.status == "completed" and ended != 1):
            yield Problem(Wrong.AUDIT, f"run {run.id} was started {started} times and ended {ended} times on record")


def _starts(history: History) -> Iterator[Problem]:
    runs = {run.id for run in history.runs}
    for key, answered in history.starts.items():
        if len(set(answered)) > 1:
            yield Problem(Wrong.DOUBLE, f"{key} was answered with runs {sorted(set(answered))}")
    named = {run for answered in history.starts.values() for run in answered}
    if lost := named - runs:
        yield Problem(Wrong.LOST, f"runs {sorted(lost)} were answered and are not there")
    if strange := runs - named:
        yield Problem(Wrong.DOUBLE, f"nobody was told of runs {sorted(strange)}")


def _stuck(history: History) -> Iterator[Problem]:
    for run in history.runs:
        if run.status != "completed":
            yield Problem(Wrong.STUCK, f"run {run.id} is {run.status}")
    for item in history.items:
        if item.state in OPEN or item.leased:
            yield Problem(Wrong.STUCK, f"{_of(item)} is {item.state}{', leased' if item.leased else ''}")


def _by_item(facts: Iterable[Fact]) -> dict[tuple[str, str], list[Fact]]:
    found: dict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in sorted(facts, key=lambda fact: fact.serial):
        found[fact.run_id, fact.key or ""].append(fact)
    return found


def _of(item: Item) -> str:
    return _named((item.run_id, item.key))


def _named(name: tuple[str, str]) -> str:
    return f"item {name[1][-8:]} of run {name[0]}"
