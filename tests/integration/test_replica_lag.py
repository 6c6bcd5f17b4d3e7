"""A real streaming standby that falls behind, or says nothing any more, and is ignored if it is meant to lag."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from opsplane.config import Settings
from opsplane.embedded import processes
from opsplane.embedded.accounts import Account
from opsplane.runbooks.service import Plane
from opsplane.runs.throttling import readings, signals
from opsplane.runs.throttling.readings import Reading
from opsplane.runs.throttling.signals import Signal
from tests.integration.test_processes import until

NAME, PORT = "standby", "5499"
FLAGS = {
    "port": PORT, "listen_addresses": "", "max_connections": "200", "shared_buffers": "16MB", "fsync": "off",
    "wal_receiver_status_interval": "1s", "autovacuum": "off",
}  # fmt: skip
MUCH = "CREATE TABLE much AS SELECT repeat(md5(n::text), 20) FROM generate_series(1, 60000) n"


@dataclass
class Standby:
    """A standby of the tests' own primary, and a session with each of them."""

    postmaster: subprocess.Popen[bytes]
    primary: Any
    replica: Any

    async def write_much(self) -> None:
        """More than a segment of WAL."""
        await self.primary.execute(MUCH)
        await self.primary.execute("DROP TABLE much")

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Whoever receives the WAL there is frozen."""
        children = psutil.Process(self.postmaster.pid).children()
        [receiver] = [child.pid for child in children if "walreceiver" in " ".join(child.cmdline())]
        os.kill(receiver, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(receiver, signal.SIGCONT)


@pytest.fixture(scope="module")
async def standby(settings: Settings) -> AsyncIterator[Standby]:
    """A standby that streams."""
    primary = await asyncpg.connect(settings.database_url)
    binaries = Path(await primary.fetchval("SELECT setting FROM pg_config() WHERE name = 'BINDIR'"))
    data = Path(await primary.fetchval("SHOW data_directory"))
    sockets = str(await primary.fetchval("SHOW unix_socket_directories"))
    owner = data.stat()
    account = Account(owner.st_uid, owner.st_gid) if os.geteuid() == 0 else None
    place = data.parent / f"standby-{os.getpid()}"
    place.mkdir(mode=0o700)
    os.chown(place, owner.st_uid, owner.st_gid)
    options: Any = {"env": processes.ENVIRONMENT, "cwd": place, **processes.as_account(account)}
    await asyncio.to_thread(back_up, binaries, sockets, place, options)
    postmaster = await asyncio.to_thread(start, binaries, sockets, place, options)
    try:
        replica = await connected(sockets)
        yield Standby(postmaster, primary, replica)
        replica.terminate()
    finally:
        postmaster.send_signal(signal.SIGQUIT)
        postmaster.wait(30)
        await primary.close()
        shutil.rmtree(place)


def back_up(binaries: Path, sockets: str, place: Path, options: Any) -> None:
    source = f"host={sockets} port=5432 user=postgres application_name={NAME}"
    command: list[str | Path] = [
        binaries / "pg_basebackup",
        "-D",
        place,
        "-R",
        "-X",
        "stream",
        "-c",
        "fast",
        "-d",
        source,
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120, **options)


def start(binaries: Path, sockets: str, place: Path, options: Any) -> "subprocess.Popen[bytes]":
    flags = [f"--{name}={value}" for name, value in (FLAGS | {"unix_socket_directories": sockets}).items()]
    return subprocess.Popen([binaries / "postgres", "-D", place, *flags], stderr=subprocess.DEVNULL, **options)


async def connected(sockets: str) -> Any:
    for _ in range(300):
        try:
            return await asyncpg.connect(host=sockets, port=int(PORT), user="postgres", database="opsplane")
        except (OSError, asyncpg.PostgresError):
            await asyncio.sleep(0.2)
    raise AssertionError("the standby does not answer")


async def read(plane: Plane, **settings: Any) -> Reading:
    async with plane.db.reading() as session:
        return await readings.read(session, plane.settings.model_copy(update=settings))


async def test_a_standby_that_falls_behind_slows_runs_until_it_has_caught_up(plane: Plane, standby: Standby) -> None:
    strict = plane.settings.model_copy(update={"throttle_replica_lag_s": 1})

    async def judged() -> list[Signal]:
        return [one.signal for one in signals.judge(await read(plane), None, strict)]

    async def behind() -> bool:
        return await judged() == [Signal.REPLICA_LAG]

    async def caught_up() -> bool:
        return await judged() == []

    async def streams() -> bool:
        return (await read(plane)).replica is not None

    await until(streams)
    await until(caught_up)
    await standby.replica.execute("SELECT pg_wal_replay_pause()")
    await standby.write_much()
    await until(behind)
    replica = (await read(plane)).replica
    assert replica is not None
    assert replica.name == NAME
    assert replica.lag_mb > 10
    assert (await read(plane, throttle_ignored_replicas=f"delayed, {NAME}")).replica is None
    await standby.replica.execute("SELECT pg_wal_replay_resume()")
    await until(caught_up)


async def test_a_standby_that_says_nothing_any_more_is_as_far_behind_as_its_last_word(
    plane: Plane, standby: Standby
) -> None:
    async def behind() -> bool:
        replica = (await read(plane)).replica
        return replica is not None and replica.lag_s > 2

    async def streams() -> bool:
        return (await read(plane)).replica is not None

    await until(streams)
    with standby.silenced():
        await standby.write_much()
        await until(behind)
