"""Sixteen starts at once, in two processes, on scopes that overlap: `python -m tests.faults.storm --rounds 10000`."""

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from opsplane import embedded, migrate
from opsplane.config import Settings
from tests.conftest import TABLES
from tests.faults import pooler, tally
from tests.faults.starters import GROUPS, REFUSED, RUNBOOKS, STARTED
from tests.faults.tally import Tally

PROCESSES, EACH = 2, 8
SLICE = 100
TENANTS = [f"tenant-{number}" for number in range(8)]
ALL_TENANTS_SHARE = 0.25
DIRECT, POOLED = "direct", "through pgbouncer"
Start = tuple[str, str | None]  # runbook, tenant

# Shares nothing with the lock, the exclusion constraint or the query that refuses.
OVERLAPS = """
    SELECT count(*) FROM operation_runs one JOIN operation_runs other
    ON one.id < other.id AND one.lock_group = other.lock_group
    AND (one.tenant_id IS NULL OR other.tenant_id IS NULL OR one.tenant_id = other.tenant_id)
    WHERE one.status <> 'completed' AND other.status <> 'completed'
"""
ACTIVE = "SELECT count(*) FROM operation_runs WHERE status <> 'completed'"
END = "UPDATE operation_runs SET status = 'completed', outcome = 'failed' WHERE status <> 'completed'"
ADD_TENANT = """
    INSERT INTO tenants (id, workspace_id, external_id, name)
    SELECT gen_random_uuid(), id, $1, $1 FROM workspaces ON CONFLICT DO NOTHING
"""


class Starter:
    """The parent's end of a process that starts."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._in, self._out = process, process.stdin, process.stdout

    async def prepare(self, starts: Sequence[Start], *, preflights: bool) -> None:
        """Say what to start; returns once it waits for the word."""
        self._in.write(json.dumps({"starts": starts, "preflights": preflights}).encode() + b"\n")
        assert await self._heard() == "ready"

    async def go(self) -> list[tuple[str, float]]:
        """The word; returns what came of each start, and its milliseconds."""
        self._in.write(b"go\n")
        return [(answer, ms) for answer, ms in await self._heard()]

    async def end(self) -> None:
        """Let it leave."""
        self._in.close()
        await self._process.wait()

    async def _heard(self) -> Any:
        line = await self._out.readline()
        assert line, "a starter ended"
        return json.loads(line)


@dataclass
class Storm:
    """Starters, and a connection of its own to look at what they did."""

    way: str
    starters: list[Starter]
    eye: Any

    async def slice(self, first: int, rounds: int) -> Tally:
        """So many rounds; the number of a round is its seed."""
        found, began = Tally(self.way), time.monotonic()
        for number in range(first, first + rounds):
            await self._round(random.Random(f"{self.way} {number}"), found, preflights=number % 2 == 0)
        found.seconds = time.monotonic() - began
        return found

    async def _round(self, picker: random.Random, found: Tally, *, preflights: bool) -> None:
        starts = [_pick(picker) for _ in range(PROCESSES * EACH)]
        shares = [starts[index * EACH : (index + 1) * EACH] for index in range(PROCESSES)]
        each = zip(self.starters, shares, strict=True)
        await asyncio.gather(*(starter.prepare(share, preflights=preflights) for starter, share in each))
        answers = [answer for them in await asyncio.gather(*(s.go() for s in self.starters)) for answer in them]
        await self._judge(starts, answers, found)

    async def _judge(self, starts: list[Start], answers: list[tuple[str, float]], found: Tally) -> None:
        active = await self.eye.fetchval(ACTIVE)
        found.rounds += 1
        found.starts += len(starts)
        found.runs += active
        found.overlaps += await self.eye.fetchval(OVERLAPS)
        started = [start for start, (answer, _) in zip(starts, answers, strict=True) if answer == STARTED]
        for start, (answer, ms) in zip(starts, answers, strict=True):
            if answer == STARTED:
                found.started.add(ms)
            elif answer == REFUSED:
                found.refused.add(ms)
                found.wrong.update(() if any(_overlap(start, run) for run in started) else ["refused without a holder"])
            else:
                found.wrong[answer] += 1
        if active != len(started) or not started:
            found.wrong[f"{len(started)} said to have started, {active} active"] += 1
        await self.eye.execute(END)

    async def sweep(self) -> None:
        """Take away what earlier rounds left, or every round would be slower than the one before."""
        async with self.eye.transaction():
            await self.eye.execute("SET LOCAL session_replication_role = replica")
            await self.eye.execute(f"TRUNCATE {TABLES}")


def _pick(picker: random.Random) -> Start:
    return picker.choice(RUNBOOKS), None if picker.random() < ALL_TENANTS_SHARE else picker.choice(TENANTS)


def _overlap(one: Start, other: Start) -> bool:
    return GROUPS[one[0]] == GROUPS[other[0]] and (None in (one[1], other[1]) or one[1] == other[1])


@asynccontextmanager
async def opened(direct: Settings, settings: Settings) -> AsyncIterator[Storm]:
    """Tenants and starters; `settings` is the way the starts go, `direct` the way the eye looks."""
    eye = await asyncpg.connect(direct.database_url)
    for tenant in TENANTS:
        await eye.execute(ADD_TENANT, tenant)
    starters = [Starter(await _process(settings)) for _ in range(PROCESSES)]
    try:
        yield Storm(DIRECT if settings is direct else POOLED, starters, eye)
    finally:
        await asyncio.gather(*(starter.end() for starter in starters))
        await eye.close()


async def _process(settings: Settings) -> asyncio.subprocess.Process:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPSPLANE_")} | {
        "OPSPLANE_DATABASE_URL": settings.database_url or "",
        "OPSPLANE_DATABASE_POOLER": settings.database_pooler,
        "OPSPLANE_REDIS_URL": settings.redis_url or "",
        "OPSPLANE_HOME": str(settings.home),
        "OPSPLANE_SECRET_KEY": "a key of the storm, of 32 characters or more",
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.starters", env=environment,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**20,
    )  # fmt: skip


async def campaign(rounds: int, results: Path, direct: Settings, settings: Settings) -> Tally:
    """Play what is missing in `results`, a slice at a time."""
    await migrate.upgrade(direct)
    async with opened(direct, settings) as storm:
        while (done := tally.kept(results, storm.way)).rounds < rounds:
            found = await storm.slice(done.rounds, min(SLICE, rounds - done.rounds))
            tally.keep(results, found)
            await storm.sweep()
            print(f"{done.rounds + found.rounds:6} of {rounds} {found.seconds:5.1f} s {'ok' if found.ok else found}")  # noqa: T201
    return done


def main() -> int:
    """Arguments, servers, the campaign, its numbers; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--results", type=Path, help="append slices here, and go on after those that are there")
    parser.add_argument("--pooler", action="store_true", help="start through pgbouncer in transaction mode")
    asked = parser.parse_args()
    if asked.pooler and not pooler.installed():
        parser.error(pooler.MISSING)
    with tempfile.TemporaryDirectory() as home, embedded.running(Path(home), durable=True) as servers:
        direct = Settings(database_url=servers.database_url, redis_url=servers.redis_url, home=Path(home))
        way = pooler.pooled(direct, sessions=16) if asked.pooler else contextlib.nullcontext(direct)
        with way as settings:
            found = asyncio.run(campaign(asked.rounds, asked.results or Path(home) / "storm.jsonl", direct, settings))
    print(found)  # noqa: T201
    return 0 if found.ok else 1


if __name__ == "__main__":
    sys.exit(main())
