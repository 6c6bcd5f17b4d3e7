"""Ten deploy hooks at once on an empty database, some killed at random: `python -m tests.faults.deploys --rounds 50`."""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from opsplane import embedded, migrate, models
from opsplane.config import Settings
from opsplane.db import VERSION_TABLE

HOOKS = 10
KILLED_SHARE = 0.5
LIMIT_S = 60
RUNBOOKS = Path(__file__).with_name("deploy_runbooks")
DECLARED = ["test.deploy.first", "test.deploy.second"]
MIGRATED = "migrate: done"


@dataclass
class Hook:
    """One process, and how it ended."""

    pid: int
    log: Path = Path(os.devnull)
    began: float = field(default_factory=time.monotonic)
    ended: "asyncio.Future[int]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    seconds: float = 0

    def kill(self) -> bool:
        """As by kill -9; False if it had ended before."""
        if self.ended.done():
            return False
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return True


@dataclass
class Forker:
    """The parent's end of the process that starts processes."""

    process: asyncio.subprocess.Process
    environment: dict[str, str]
    folder: Path
    _started: "asyncio.Queue[Hook]" = field(default_factory=asyncio.Queue)
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)
    _hooks: dict[int, Hook] = field(default_factory=dict)

    async def start(self, module: str, *arguments: str, **environment: str) -> Hook:
        """Start `module` of the command line; its output goes to a log of its own."""
        assert self.process.stdin is not None
        log = self.folder / f"{module}-{uuid.uuid4().hex[:8]}.log"
        asked = {
            "module": module,
            "arguments": arguments,
            "environment": self.environment | environment,
            "log": str(log),
        }
        async with self._one_at_a_time:
            self.process.stdin.write(json.dumps(asked).encode() + b"\n")
            hook = await self._started.get()
        hook.log = log
        return hook

    async def listen(self) -> None:
        """Take note of what starts and ends."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            said = json.loads(line)
            if "started" in said:
                started = self._hooks[said["started"]] = Hook(said["started"])
                self._started.put_nowait(started)
            elif hook := self._hooks.pop(said["ended"], None):
                hook.seconds = time.monotonic() - hook.began
                hook.ended.set_result(said["code"])


@asynccontextmanager
async def forking(settings: Settings, folder: Path) -> AsyncIterator[Forker]:
    """A process that starts processes, until the end."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OPSPLANE_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.forker",
        env=clean, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    environment = {
        "OPSPLANE_REDIS_URL": settings.redis_url or "",
        "OPSPLANE_HOME": str(settings.home),
        "OPSPLANE_RUNBOOKS_DIR": str(RUNBOOKS),
        "OPSPLANE_SWEEP_S": "1",
        "OPSPLANE_POOL_SIZE": "2",
    }
    await process.stdout.readline()  # ready
    forker = Forker(process, environment, folder)
    listening = asyncio.create_task(forker.listen())
    try:
        yield forker
    finally:
        process.stdin.close()
        await process.wait()
        listening.cancel()


@dataclass
class Round:
    """What came of one round."""

    seed: int
    killed: int = 0
    slowest_s: float = 0
    wrong: list[str] = field(default_factory=list)


async def play(seed: int, direct: Settings, forker: Forker, *, count: int = HOOKS) -> Round:
    """One round: hooks, kills, replacements, one worker; then look."""
    picker, found, url = random.Random(seed), Round(seed), await _new_database(direct)
    hooks = [await forker.start("deploy", "--release", "r1", OPSPLANE_DATABASE_URL=url) for _ in range(count)]
    moments = [_moment(picker) if picker.random() < KILLED_SHARE else None for _ in hooks]
    starting = asyncio.create_task(_worker(forker, url))
    each = zip(hooks, moments, strict=True)
    replaced = await asyncio.gather(*(_replaced(forker, hook, moment, url) for hook, moment in each))
    lives = [life for lives in replaced for life in lives]
    worker = await starting
    worker.kill()
    await worker.ended
    survivors = [hook for hook in lives if hook.ended.result() != -signal.SIGKILL]
    found.killed = len(lives) - len(survivors)
    found.slowest_s = max(hook.seconds for hook in survivors)
    found.wrong = _judge_exits(survivors, lives) + await _judge_database(url)
    await _drop_database(direct, url)
    return found


def _moment(picker: random.Random) -> float:
    # Most of what can be torn is done within the first second or two.
    return picker.choice([picker.uniform(0.02, 2), picker.uniform(0.02, 8)])


async def _replaced(forker: Forker, hook: Hook, kill_after_s: float | None, url: str) -> list[Hook]:
    """The hook's life; if it is killed, also that of the pod that takes its place."""
    lives = [hook]
    if kill_after_s is not None:
        await asyncio.wait([hook.ended], timeout=kill_after_s)
        if hook.kill():
            lives.append(await forker.start("deploy", "--release", "r1", OPSPLANE_DATABASE_URL=url))
    await asyncio.wait([life.ended for life in lives], timeout=2 * LIMIT_S)
    for life in lives:
        life.kill()  # one that hangs
    await asyncio.gather(*(life.ended for life in lives))
    return lives


async def _worker(forker: Forker, url: str) -> Hook:
    """A worker as soon as it can start: once the schema is the release's."""
    connection = await asyncpg.connect(url)
    for _ in range(20 * LIMIT_S):
        with suppress(asyncpg.UndefinedTableError):
            if await connection.fetchval(f"SELECT version_num FROM {VERSION_TABLE}") == migrate.head():
                break
        await asyncio.sleep(0.05)
    await connection.close()
    return await forker.start("main", "worker", OPSPLANE_DATABASE_URL=url)


def _judge_exits(survivors: list[Hook], lives: list[Hook]) -> list[str]:
    wrong = [
        f"a survivor ended {hook.ended.result()} after {hook.seconds:.0f} s: {hook.log.read_text()[-2000:]}"
        for hook in survivors
        if hook.ended.result() != 0 or hook.seconds > LIMIT_S
    ]
    done = sum(MIGRATED in hook.log.read_text() for hook in lives)
    return wrong if done <= 1 else [*wrong, f"{done} say that they migrated"]


async def _judge_database(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    versions = [row[0] for row in await connection.fetch(f"SELECT version_num FROM {VERSION_TABLE}")]
    runs = await connection.fetch("SELECT type, release, outcome FROM operation_runs ORDER BY type")
    await connection.close()
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.connect() as there:
        torn = await there.run_sync(_differences)
    await engine.dispose()
    expected = [(key, "r1", "succeeded") for key in DECLARED]
    return [
        *([f"versions {versions}"] if versions != [migrate.head()] else []),
        *([f"runs {[tuple(run) for run in runs]}"] if [tuple(run) for run in runs] != expected else []),
        *(f"the schema differs: {change}" for change in torn),
    ]


def _differences(connection: Connection) -> list[str]:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Did not recognize type 'uuidrange'")
        changes = [repr(change) for change in compare_metadata(context, models.metadata)]
    return [change for change in changes if "tenant_span" not in change and "one_active_run_per_scope" not in change]


async def _new_database(direct: Settings) -> str:
    name = f"deploy_{uuid.uuid4().hex[:12]}"
    await _administer(direct, f"CREATE DATABASE {name}")
    assert direct.database_url is not None
    before, after = direct.database_url.split("?", 1)
    return f"{before.rsplit('/', 1)[0]}/{name}?{after}"


async def _drop_database(direct: Settings, url: str) -> None:
    await _administer(direct, f"DROP DATABASE {url.split('?', maxsplit=1)[0].rsplit('/', 1)[1]} WITH (FORCE)")


async def _administer(direct: Settings, statement: str) -> None:
    connection: Any = await asyncpg.connect(direct.database_url)
    await connection.execute(statement)
    await connection.close()


async def campaign(first: int, rounds: int, direct: Settings) -> list[Round]:
    """So many rounds; a round that failed can be played again by its seed."""
    found = []
    with tempfile.TemporaryDirectory() as logs:
        async with forking(direct, Path(logs)) as forker:
            for seed in range(first, first + rounds):
                found.append(await play(seed, direct, forker))
                killed, slowest = found[-1].killed, found[-1].slowest_s
                print(f"seed {seed:4}: {killed} killed, slowest {slowest:4.1f} s", *found[-1].wrong or ["ok"], sep="  ")  # noqa: T201
    return found


def main() -> int:
    """Arguments, servers, rounds, sum; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--first", type=int, default=1, help="first seed")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, embedded.running(Path(home), durable=True) as servers:
        direct = Settings(database_url=servers.database_url, redis_url=servers.redis_url, home=Path(home))
        found = asyncio.run(campaign(asked.first, asked.rounds, direct))
    failed = [result.seed for result in found if result.wrong]
    killed, slowest = sum(result.killed for result in found), max(result.slowest_s for result in found)
    print(f"{len(found)} rounds of {HOOKS} hooks, {killed} killed, slowest survivor {slowest:.1f} s, failed: {failed}")  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
