"""Named points in the life of a run, and what may happen there.

The product knows nothing of them: a point stands for one of its functions, which is wrapped in the process that
is to be struck, and nowhere else.
"""

import functools
import importlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import asyncpg

from opsplane.db import AFTER_COMMIT, Database, Transaction, translate_unreachable
from opsplane.direct import Begun
from opsplane.runs import sweeper

VICTIM = "victim"  # the application name of the connections that are cut
_STRUCK_LATER = "to be struck after the commit"

Strike = Callable[[], Awaitable[None]]


class When(StrEnum):
    """Around a call of the function; `committed` is after the transaction it was called in, `alone` one of its own."""

    BEFORE = "before"
    AFTER = "after"
    ALONE = "alone"
    COMMITTED = "committed"


class Fault(StrEnum):
    """What happens at a point."""

    CRASH = "crash"
    EXCEPTION = "exception"
    DEFECT = "defect"
    DISCONNECT = "disconnect"
    DELAY = "delay"


@dataclass(frozen=True)
class Point:
    """A name, the function it stands for, and the life (see `lives`) in which a run comes by."""

    name: str
    function: str
    when: When
    life: str = "work"
    once: bool = True  # in a run; so that its second hit needs a second run


@dataclass(frozen=True)
class Case:
    """One fault at one point, the first or the second time it is reached."""

    point: Point
    fault: Fault
    hit: int

    @property
    def name(self) -> str:
        """As the test is called."""
        return f"{self.point.name}-{self.fault}-{self.hit}"

    @property
    def runs(self) -> int:
        """How many runs it takes to get there."""
        return self.hit if self.point.once else 1


BEFORE, AFTER, ALONE, COMMITTED = When

POINTS = (
    Point("start:key-reserved", "opsplane.runbooks.idempotency:reserve", AFTER),
    Point("start:scope-locked", "opsplane.runbooks.locks:take", AFTER),
    Point("start:preflight-consumed", "opsplane.runbooks.preflights:consume", AFTER),
    Point("start:run-inserted", "opsplane.runbooks.starting:Starting._shown", BEFORE),
    Point("start:committed", "opsplane.runbooks.idempotency:answered", COMMITTED),
    Point("wake:before", "opsplane.queue:Queue.wake", BEFORE),
    Point("wake:after", "opsplane.queue:Queue.wake", AFTER),
    Point("begin:expanded", "opsplane.runs.items:expand", AFTER),
    Point("begin:committed", "opsplane.runs.lifecycle:begin", COMMITTED),
    Point("claim:before", "opsplane.runs.leases:claim_some", BEFORE, once=False),
    Point("claim:after", "opsplane.runs.leases:claim_some", ALONE, once=False),
    Point("claim:committed", "opsplane.runs.leases:claim_some", COMMITTED, once=False),
    Point("fence:after", "opsplane.runs.leases:fence_all", AFTER, once=False),
    Point("apply:after", "opsplane.runs.repairing:Repairer.apply", AFTER, once=False),
    Point("store:after", "opsplane.runs.leases:store", AFTER, once=False),
    Point("finish:after", "opsplane.runs.leases:finish", AFTER, once=False),
    Point("chunk:committed", "opsplane.runs.leases:store", COMMITTED, once=False),
    Point("item:committed", "opsplane.runs.leases:finish", COMMITTED, once=False),
    Point("bundle:applied", "opsplane.runs.repairing:Repairer.apply_together", AFTER, "bundle"),
    Point("bundle:finished", "opsplane.runs.leases:finish", AFTER, "bundle"),
    Point("bundle:committed", "opsplane.runs.leases:finish", COMMITTED, "bundle"),
    # Within what makes a refusal of a lost connection; around `_carry`, that would look like an author's mistake.
    Point("repair:before", "opsplane.runs.at_once:AtOnce._tell", BEFORE, "repair", once=False),
    Point("repair:committed", "opsplane.runs.at_once:AtOnce._tell", ALONE, "repair", once=False),
    Point("settle:before", "opsplane.runs.lifecycle:settle", BEFORE),
    Point("settle:after", "opsplane.runs.lifecycle:settle", AFTER),
    Point("settle:committed", "opsplane.runs.lifecycle:settle", COMMITTED),
    Point("release:after", "opsplane.runs.leases:release", AFTER, "stop", once=False),
    Point("release:committed", "opsplane.runs.leases:release", COMMITTED, "stop", once=False),
    Point("retry-later:after", "opsplane.runs.leases:retry_later", AFTER, "retry", once=False),
    Point("retry-later:committed", "opsplane.runs.leases:retry_later", COMMITTED, "retry", once=False),
    Point("fail:after", "opsplane.runs.leases:fail", AFTER, "fail", once=False),
    Point("heartbeat:after", "opsplane.runs.processes:beat", AFTER, "beat", once=False),
    Point("sweep:begun-committed", "opsplane.runs.sweeper:expand_queued", COMMITTED, "sweep"),
    Point("sweep:freed", "opsplane.runs.sweeper:free_leases", AFTER, "sweep"),
    Point("sweep:freed-committed", "opsplane.runs.sweeper:free_leases", COMMITTED, "sweep"),
    Point("sweep:woken", "opsplane.runs.sweeper:wake_waiting", AFTER, "sweep"),
    Point("sweep:settled", "opsplane.runs.sweeper:settle_all", AFTER, "sweep"),
    Point("sweep:settled-committed", "opsplane.runs.sweeper:settle_all", COMMITTED, "sweep"),
    Point("sweep:sealed", "opsplane.runs.sweeper:seal_audit", AFTER, "sweep"),
)

EVERYWHERE = (Fault.CRASH, Fault.EXCEPTION, Fault.DELAY)
BESIDES = (Fault.DEFECT, Fault.DISCONNECT)
MIDST = frozenset(
    {
        "start:run-inserted", "begin:expanded", "claim:after", "fence:after", "chunk:committed", "repair:before",
        "repair:committed", "settle:after",
    }
)  # fmt: skip
CASES = tuple(
    [Case(point, fault, hit) for point in POINTS for fault in EVERYWHERE for hit in (1, 2)]
    + [Case(point, fault, 1) for point in POINTS if point.name in MIDST for fault in BESIDES]
)


@dataclass(frozen=True)
class Scene:
    """What a fault needs to know: whom to tell that it happens, and how to stand still until others are at work."""

    database_url: str
    reached: Callable[[], None]
    stand_still: Callable[[], None]


def install(case: Case, scene: Scene) -> None:
    """Let the fault happen in this process at the case's point."""
    hits = 0

    async def strike() -> None:
        nonlocal hits
        hits += 1
        if hits == case.hit:
            scene.reached()
            await _FAULTS[case.fault](scene)

    module, _, path = case.point.function.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, name = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    setattr(owner, name, _wrapped(getattr(owner, name), case.point.when, strike))
    sweeper.STEPS = tuple(getattr(sweeper, step.__name__) for step in sweeper.STEPS)
    if case.point.when is COMMITTED:
        Database.transaction = _striking_after_commit(Database.transaction, strike)  # type: ignore[method-assign]
        Database.bare = _striking_after_commit(Database.bare, strike)  # type: ignore[method-assign]


def _wrapped(function: Callable[..., Awaitable[Any]], when: When, strike: Strike) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(function)
    async def wrapped(*given: Any, **named: Any) -> Any:
        if when is BEFORE:
            await strike()
        result = await function(*given, **named)
        if when in {AFTER, ALONE}:
            await strike()
        elif when is COMMITTED:
            _session_of(given[0]).info[_STRUCK_LATER] = True
        return result

    return wrapped


def _striking_after_commit(transaction: Any, strike: Strike) -> Any:
    async def struck() -> None:
        async with translate_unreachable():  # as if the answer to COMMIT had not come
            await strike()

    @asynccontextmanager
    async def wrapped(self: Database, **named: Any) -> AsyncIterator[Any]:
        async with transaction(self, **named) as begun:
            yield begun
            info = _session_of(begun).info
            if info.pop(_STRUCK_LATER, False):
                info[AFTER_COMMIT].insert(0, struck)

    return wrapped


def _session_of(begun: Transaction | Begun) -> Begun:
    return begun.session if isinstance(begun, Transaction) else begun


async def _crash(_scene: Scene) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def _lose_the_connection(_scene: Scene) -> None:
    raise ConnectionResetError("the connection of the test is gone")


async def _be_wrong(_scene: Scene) -> None:
    raise RuntimeError("a defect of the test")


async def _be_disconnected(scene: Scene) -> None:
    connection = await asyncpg.connect(scene.database_url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1",
        VICTIM,
    )
    await connection.close()


async def _freeze(scene: Scene) -> None:
    scene.stand_still()  # without awaiting anything: the whole process stands still, its timers too


_FAULTS = {
    Fault.CRASH: _crash,
    Fault.EXCEPTION: _lose_the_connection,
    Fault.DEFECT: _be_wrong,
    Fault.DISCONNECT: _be_disconnected,
    Fault.DELAY: _freeze,
}
