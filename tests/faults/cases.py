"""Runs cases, several at once: `python -m tests.faults.cases`, with what to run as JSON on standard input.

A Python process takes a second to start, so this one imports everything once and forks: for each case a judge,
which forks its victim before it has a loop or a connection of its own. An answer is a line of JSON.
"""

import asyncio
import gc
import json
import os
import select
import signal
import sys
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import event, make_url

from opsplane import logs
from opsplane.config import Settings
from opsplane.db import Database
from opsplane.runs import leases, processes
from tests.faults import lives, points
from tests.faults.points import CASES, POINTS, Case, Fault, Scene, When

LEASE_S = 0.5
# Inside a transaction, nobody can overtake a victim that stands still; outside, it stands still until somebody has.
FREEZE_S = {When.AFTER: 1, When.BEFORE: 10, When.ALONE: 10, When.COMMITTED: 10}
VICTIM_LIMIT_S, JUDGE_LIMIT_S = 90, 180  # of a machine that is very busy
LONGEST_LOG = 6000
NO_ANSWER = '{"case": "", "wrongs": []}'


@dataclass(frozen=True)
class Lane:
    """A database in which one case runs at a time; the engine and what it has compiled is everybody's."""

    settings: Settings
    db: Database

    @property
    def database_url(self) -> str:
        """Its address."""
        assert self.settings.database_url is not None
        return self.settings.database_url

    @property
    def log(self) -> Path:
        """What the processes of the case at hand have to say."""
        return self.settings.home / "log"

    @property
    def answer(self) -> Path:
        """What the judge found."""
        return self.settings.home / "answer"

    def enter(self, application: str) -> None:
        """From here on, this process connects to no other lane's database."""
        database = make_url(self.settings.sqlalchemy_url).database
        self.db._sessions.configure(info={"settings": self.settings})

        @event.listens_for(self.db.engine.sync_engine, "do_connect")
        def here(_dialect: Any, _record: Any, _arguments: Any, named: dict[str, Any]) -> None:
            named["database"] = database
            named["server_settings"] = named["server_settings"] | {"application_name": application}


def main() -> None:
    """Run the cases that standard input names."""
    asked = json.load(sys.stdin)
    wanted = set(asked["cases"])
    waiting = [case for case in CASES if case.name in wanted]
    free = _lanes(asked)
    logs.configure(free[0].settings)
    _hurry()
    asyncio.run(_warm_up(free[0]))
    gc.disable()  # children live for a second
    judges: dict[int, Lane] = {}
    while waiting or judges:
        while waiting and free:
            case, lane = waiting.pop(0), free.pop()
            judges[_fork(partial(_judge, case, lane))] = lane
        pid, _ = os.wait()
        free.append(lane := judges.pop(pid))
        print(lane.answer.read_text(), flush=True)  # noqa: T201 - this is the answer
        lane.answer.write_text(NO_ANSWER)


def _lanes(asked: dict[str, Any]) -> list[Lane]:
    every = [_settings(url, Path(asked["home"]) / str(n), asked) for n, url in enumerate(asked["database_urls"])]
    db = Database(every[0])
    return [Lane(settings, db) for settings in every]


def _settings(database_url: str, home: Path, asked: dict[str, Any]) -> Settings:
    home.mkdir()
    settings = Settings(database_url=database_url, redis_url=asked["redis_url"], home=home, secret_key=asked["key"])
    return settings.model_copy(update={"lease_s": LEASE_S, "pool_size": 4})


async def _warm_up(lane: Lane) -> None:
    """Let a run pass by once, so that what is compiled for it is there in every fork."""
    for life in ("work", "repair", "sweep"):
        case = Case(replace(POINTS[0], life=life), Fault.CRASH, 1)
        nonce = uuid.uuid4().hex
        async with lives.opened(lane.db, lane.settings) as plane:
            await lives.live(plane, case, nonce)
            await lives.carry_on(plane, case, nonce, lambda: None)
        assert await lives.wrongs(lane.database_url, case) == []


def _hurry() -> None:
    """Time passes quickly here, for all processes alike."""
    leases.BACKOFF_S = (0.05, 0.05, 0.05)  # type: ignore[assignment]
    processes.BEAT_S = 0.05  # type: ignore[assignment]


def _fork(act: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        act()
        status = 0
    except BaseException:  # noqa: BLE001 - the child must not go on as its parent
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _judge(case: Case, lane: Lane) -> None:
    signal.alarm(JUDGE_LIMIT_S)
    lane.log.write_text("")
    os.dup2(os.open(lane.log, os.O_WRONLY | os.O_APPEND), 2)
    try:
        found = _found(case, lane)
    except BaseException:  # noqa: BLE001 - whatever it is, it is this case's
        found = [traceback.format_exc()]
        asyncio.run(lives.clear(lane.database_url))
    if found:
        found.append(lane.log.read_text()[-LONGEST_LOG:])
    lane.answer.write_text(json.dumps({"case": case.name, "wrongs": found}))


def _found(case: Case, lane: Lane) -> list[str]:
    nonce = uuid.uuid4().hex
    reading, reached = os.pipe()
    thawing, thaw = os.pipe()
    victim = _fork(partial(_victim, case, lane, nonce, reached, thawing))
    os.close(reached)
    was_reached = os.read(reading, 1) != b""  # nothing to read once the victim has ended
    lane.enter("judge")
    if case.fault is not Fault.DELAY:
        status = _end_of(victim)
    asyncio.run(_carry_on(case, lane, nonce, partial(_say, thaw)))
    if case.fault is Fault.DELAY:
        _say(thaw)
        status = _end_of(victim)
    found = [] if was_reached else [f"the point {case.point.name} was not reached {case.hit} times"]
    if status not in _expected(case):
        found.append(f"the victim ended with {status}")
    return found + asyncio.run(lives.wrongs(lane.database_url, case))


def _victim(case: Case, lane: Lane, nonce: str, reached: int, thawing: int) -> None:
    signal.alarm(VICTIM_LIMIT_S)
    lane.enter(points.VICTIM)
    points.install(case, Scene(lane.database_url, partial(_say, reached), partial(_stand_still, case, thawing)))
    asyncio.run(_live(case, lane, nonce))


async def _live(case: Case, lane: Lane, nonce: str) -> None:
    async with lives.opened(lane.db, lane.settings) as plane:
        await lives.live(plane, case, nonce)


async def _carry_on(case: Case, lane: Lane, nonce: str, at_work: Callable[[], None]) -> None:
    async with lives.opened(lane.db, lane.settings) as plane:
        await lives.carry_on(plane, case, nonce, at_work)


def _stand_still(case: Case, thawing: int) -> None:
    select.select([thawing], [], [], FREEZE_S[case.point.when])


def _say(pipe: int) -> None:
    os.write(pipe, b"!")


def _end_of(victim: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(victim, 0)[1])


def _expected(case: Case) -> set[int]:
    """How the victim may end: a heart and a sweeper outlive every failure, as does a process that only stood still."""
    if case.fault is Fault.CRASH:
        return {-signal.SIGKILL}
    unharmed = case.fault is Fault.DELAY or case.point.life in {"beat", "sweep"}
    return {0} if unharmed else {0, 1}


if __name__ == "__main__":
    main()
