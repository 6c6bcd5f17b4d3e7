"""A seed makes a schedule: runs that are started and faults that hit them; playing it gives a verdict."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

from tests.faults import client, history, kinds, reading
from tests.faults.client import Start
from tests.faults.history import History, Problem, Wrong
from tests.faults.stand import TENANTS, Stand

ROWS = 20  # of runbooks/marks.py
LIMIT_S = 60.0
MARGIN_S = 20.0
IDLE_IN_TRANSACTION_S = 15 + 3
SLOW_EXIT_S = 25 + 2
ALL, SAME, ONE = "test.marks.all", "test.marks.same", "test.marks.one"
# After each of these a lease may run out with nobody to blame; an item that had it three times is given up.
FREEZES = frozenset(name for name in kinds.KINDS if not name.startswith(("valkey", "api")))


@dataclass(frozen=True)
class Fault:
    """One fault of a schedule; its own seed decides on victim and length."""

    at_s: float
    kind: str
    seed: int


@dataclass(frozen=True)
class Schedule:
    """What is done to a stand, and when."""

    seed: int
    starts: tuple[tuple[float, str, str | None], ...]
    acts: tuple[tuple[float, str], ...]  # of an operator on the first run
    faults: tuple[Fault, ...]


@dataclass
class Hit:
    """What became of a fault."""

    kind: str
    at_s: float
    healed_s: float = 0.0
    hit: bool = True  # else the moment that it needs did not come
    error: str | None = None


@dataclass
class Result:
    """What a schedule has shown; a line of the results."""

    seed: int
    faults: list[Hit]
    problems: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    runs: int = 0
    given_up: list[str] = field(default_factory=list)  # items that failed with an excuse
    recovery_s: float = 0.0
    seconds: float = 0.0
    starts: list[dict[str, Any]] = field(default_factory=list)
    exits: list[dict[str, Any]] = field(default_factory=list)
    idle_in_transaction_s: float = 0.0
    acts: list[str] = field(default_factory=list)
    slowest_start_s: float = 0.0  # of a process that was started again; part of the recovery
    load: float = 0.0  # of the machine, when it was over

    @property
    def ok(self) -> bool:
        """Whether nothing was wrong."""
        return not self.problems

    def line(self) -> dict[str, Any]:
        """As it is stored."""
        return {"seed": self.seed, "verdict": "ok" if self.ok else "failed"} | asdict(self)


def schedule(seed: int, names: Sequence[str] | None = None) -> Schedule:
    """The schedule of a seed: three to five faults, or all of `names`, within seven seconds of one to three starts."""
    dice = Random(seed)
    picked = dice.sample(sorted(names or kinds.KINDS), k=len(names) if names else dice.randint(3, 5))
    faults = [Fault(round(dice.uniform(0.3, 7.0), 2), name, dice.randrange(2**31)) for name in picked]
    starts: list[tuple[float, str, str | None]] = [(0.0, ALL, None)]
    for _ in range(dice.choice((0, 1, 1, 2))):
        runbook = dice.choice((ONE, ONE, SAME))
        starts.append((round(dice.uniform(0.2, 6.0), 2), runbook, f"tenant-{dice.randint(1, TENANTS):02}"))
    if "api_killed_after_a_start" in picked:  # there is one after it
        at_s = next(fault.at_s for fault in faults if fault.kind == "api_killed_after_a_start")
        starts.append((at_s + 0.5, ONE, f"tenant-{dice.randint(1, TENANTS):02}"))
    return Schedule(seed, tuple(starts), _acts(dice), tuple(sorted(faults, key=lambda fault: fault.at_s)))


def _acts(dice: Random) -> tuple[tuple[float, str], ...]:
    """What an operator does meanwhile: mostly nothing."""
    what = dice.choice(((), (), (), (), ("cancel",), ("pause", "resume"), ("pause", "resume"), ("pause", "cancel")))
    return tuple((round(dice.uniform(0.5, 5.0), 2), each) for each in what)


async def play(stand: Stand, plan: Schedule) -> tuple[Result, History]:
    """Start, hurt, wait, and look at what is left."""
    began, exits = time.monotonic(), len(stand.exits)
    started = {name: len(kept.start_times) for name, kept in stand.kept.items()}
    result = Result(plan.seed, [Hit(fault.kind, fault.at_s) for fault in plan.faults])
    result.acts = [what for _, what in plan.acts]
    since = await reading.watermark(stand.control)
    starts = [
        Start(f"seed-{plan.seed}-{number}-{since}", runbook, tenant)
        for number, (_, runbook, tenant) in enumerate(plan.starts)
    ]
    async with _watched(stand, result):
        async with asyncio.TaskGroup() as asking:
            for (at_s, *_), start in zip(plan.starts, starts, strict=True):
                asking.create_task(_later(at_s, client.ask(stand.url, stand.token, start)))
            asking.create_task(client.control(stand.url, stand.token, starts[0], plan.acts))
            hits = zip(plan.faults, result.faults, strict=True)
            await asyncio.gather(*(_hurt(stand, fault, hit, began) for fault, hit in hits))
            stand.clear()
            healed = time.time()
        await _completed(stand, healed)
    problems = await _stand(stand, result, exits)
    for start in starts:
        await client.again(stand.url, stand.token, start)
    found = await settled(stand, since)
    found.starts = {start.key: start.runs for start in starts if not start.refused}
    found.excused = _excuses(plan)
    problems += history.check(found) + _others(result, starts)
    result.problems, result.wrong = [str(each) for each in problems], sorted({each.what for each in problems})
    result.recovery_s, result.runs = _recovery(found, healed), len(found.runs)
    result.given_up = [f"{item.key[-8:]} {item.failure}" for item in found.items if item.state == "failed"]
    if result.recovery_s > LIMIT_S and Wrong.STUCK not in result.wrong:
        result.problems.append(f"{Wrong.STUCK}: {result.recovery_s} s after the last fault")
        result.wrong.append(Wrong.STUCK)
    result.starts = [{"key": each.key, "answers": dict(each.answers), "seconds": each.seconds} for each in starts]
    times = [seconds for name, kept in stand.kept.items() for seconds in kept.start_times[started[name] :]]
    result.slowest_start_s = max(times, default=0.0)
    result.load = round(os.getloadavg()[0], 1)
    result.seconds = round(time.monotonic() - began, 1)
    return result, found


async def _later(seconds: float, act: Awaitable[None]) -> None:
    await asyncio.sleep(seconds)
    await act


async def _hurt(stand: Stand, fault: Fault, hit: Hit, began: float) -> None:
    if fault.kind not in kinds.available():
        hit.hit, hit.error = False, "not possible on this machine"
        return
    await asyncio.sleep(max(0.0, began + fault.at_s - time.monotonic()))
    try:
        await kinds.KINDS[fault.kind](stand, Random(fault.seed))
    except kinds.NotNow:
        hit.hit = False
    except Exception as error:  # noqa: BLE001 - the other faults go on, and the schedule fails
        hit.error = repr(error)
    hit.healed_s = round(time.monotonic() - began, 1)


@asynccontextmanager
async def _watched(stand: Stand, result: Result) -> AsyncIterator[None]:
    """Remember the longest idle transaction meanwhile."""

    async def watch() -> None:
        sql = "SELECT max(extract(epoch FROM clock_timestamp() - state_change)) FROM pg_stat_activity WHERE state LIKE 'idle in%'"
        while True:
            idle_s = round(float(await stand.control.value(sql) or 0), 1)
            result.idle_in_transaction_s = max(result.idle_in_transaction_s, idle_s)
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _completed(stand: Stand, healed: float) -> None:
    sql = "SELECT count(*) FROM operation_runs WHERE status <> 'completed'"
    while await stand.control.value(sql) and time.time() < healed + LIMIT_S + MARGIN_S:
        await asyncio.sleep(0.3)


async def settled(stand: Stand, since: int) -> History:
    """The history, once the audit's spool has been replayed, for which a sweep is given time."""
    ends = time.monotonic() + MARGIN_S
    while True:
        found = await reading.read(stand.control, since, rows=ROWS, tenants=TENANTS)
        short = any(problem.what is Wrong.AUDIT for problem in history.check(found))
        if not short or time.monotonic() > ends:
            return found
        await asyncio.sleep(1)


def _excuses(plan: Schedule) -> frozenset[str]:
    excuses = set()
    if any(fault.kind == "disk_full" for fault in plan.faults):
        excuses.add("database_error")
    if sum(fault.kind in FREEZES for fault in plan.faults) >= 3:
        excuses.add("worker_lost")
    return frozenset(excuses)


def _others(result: Result, starts: Sequence[Start]) -> list[Problem]:
    failed = [f"{hit.kind}: {hit.error}" for hit in result.faults if hit.hit and hit.error]
    answered = [start.problem for start in starts if start.problem]
    return [Problem(Wrong.HARNESS, said) for said in failed] + [Problem(Wrong.CLIENT, said) for said in answered]


def _recovery(found: History, healed: float) -> float:
    ends = [run.completed_at.timestamp() if run.completed_at else time.time() for run in found.runs]
    return round(max(0.0, max(ends, default=healed) - healed), 1)


async def _stand(stand: Stand, result: Result, exits: int) -> list[Problem]:
    """What is wrong with the processes and with what they hold."""
    problems = []
    for each in stand.exits[exits:]:
        result.exits.append(asdict(each))
        if each.unexpected:
            problems.append(Problem(Wrong.EXIT, f"{each.name} ended with {each.code} after {each.age_s} s"))
        if each.took_s is not None and each.took_s > SLOW_EXIT_S:
            problems.append(Problem(Wrong.EXIT, f"{each.name} took {each.took_s} s to end"))
    stood_still = any(hit.kind == "postgres_frozen" for hit in result.faults)  # it could not end anything then
    if result.idle_in_transaction_s > IDLE_IN_TRANSACTION_S and not stood_still:
        problems.append(Problem(Wrong.LEAK, f"{result.idle_in_transaction_s} s idle in a transaction"))
    try:
        await stand.ready()
    except TimeoutError:
        problems.append(Problem(Wrong.STUCK, "the API or a worker does not come back"))
    if kept := await held(stand):
        problems.append(Problem(Wrong.LEAK, kept))
    return problems


async def held(stand: Stand) -> str | None:
    """A lock or transaction that somebody keeps; what sweeps hold for a moment does not count."""
    sql = f"SELECT DISTINCT pid FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE {kinds.THEIRS} AND mode LIKE '%Excl%'"
    kept: set[int] | None = None
    for _ in range(8):
        found = {row["pid"] for row in await stand.control.rows(sql)}
        kept = found if kept is None else kept & found
        if not kept:
            return None
        await asyncio.sleep(0.5)
    return f"sessions {kept} keep locks"
