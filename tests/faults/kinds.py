"""The kinds of fault. Each act does its harm and returns when it has healed; its parameters come from the seed alone."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import psutil
from redis.asyncio import Redis

from tests.faults.stand import API, WORKERS, Stand
from tests.faults.supervisor import Kept

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
PATIENCE_S = 6.0  # for the moment that a fault waits for
Act = Callable[[Stand, Random], Awaitable[None]]
KINDS: dict[str, Act] = {}


class NotNow(Exception):
    """The moment this fault needs did not come, so nothing was done."""


def kind(act: Act) -> Act:
    """Make an act known by its name."""
    KINDS[act.__name__] = act
    return act


def available() -> list[str]:
    """What this machine can do."""
    return [name for name in KINDS if name != "clock_skew" or FAKETIME.exists()]


@kind
async def worker_killed(stand: Stand, dice: Random) -> None:
    """kill -9, wherever the worker is."""
    await _ended(stand, dice.choice(WORKERS), signal.SIGKILL)


@kind
async def worker_killed_after_a_commit(stand: Stand, dice: Random) -> None:
    """Its chunk is written down; it never hears of it."""
    name = dice.choice(WORKERS)
    async with _held_commits(stand, name), stand.lock(name):
        await _until(lambda: stand.proxies[name].commits_held > 0)
        await _restarted(stand.kept[name], signal.SIGKILL)


@kind
async def worker_terminated(stand: Stand, dice: Random) -> None:
    """SIGTERM, as in a rolling deploy."""
    await _ended(stand, dice.choice(WORKERS), signal.SIGTERM)


@kind
async def worker_frozen(stand: Stand, dice: Random) -> None:
    """SIGSTOP between two chunks: it holds leases and no transaction, and does not know that its commit is done."""
    name, seconds = dice.choice(WORKERS), stand.spell(dice, 2, 8, 25, 30)
    async with stand.lock(name), _held_commits(stand, name, 0.6), _frozen_when(stand, name, BETWEEN_CHUNKS):
        await asyncio.sleep(seconds)


@kind
async def worker_frozen_in_a_transaction(stand: Stand, dice: Random) -> None:
    """SIGSTOP in the middle of a chunk, with the row locks in its hands."""
    name, seconds = dice.choice(WORKERS), stand.spell(dice, 2, 8, 17, 30)
    async with stand.lock(name), _frozen_when(stand, name, IN_TRANSACTION):
        await asyncio.sleep(seconds)


@kind
async def sweeper_frozen(stand: Stand, dice: Random) -> None:
    """SIGSTOP of a process while one of its sweeps holds its lock; the network is slow until it has it."""
    name, seconds = dice.choice((API, *WORKERS)), stand.spell(dice, 5, 12, 20)
    async with stand.lock(name):
        weather = stand.proxies[name].weather
        weather.latency_s = 0.15
        try:
            async with _frozen_when(stand, name, HOLDS_A_SWEEP):
                weather.latency_s = 0
                await asyncio.sleep(seconds)
        finally:
            weather.latency_s = 0


@kind
async def api_killed(stand: Stand, dice: Random) -> None:
    """kill -9 of the API."""
    await _ended(stand, API, signal.SIGKILL)


@kind
async def api_terminated(stand: Stand, dice: Random) -> None:
    """SIGTERM of the API, as in a deploy."""
    await _ended(stand, API, signal.SIGTERM)


@kind
async def api_killed_after_a_start(stand: Stand, dice: Random) -> None:
    """The run is there; neither its starter nor any worker hears of it."""
    started = asyncio.Event()
    async with _held_commits(stand, API), stand.lock(API):
        ear = await stand.control.listen("started", lambda _run: started.set())
        try:
            await _until(started.is_set)
        finally:
            ear.terminate()
        await _restarted(stand.kept[API], signal.SIGKILL)


@kind
async def api_frozen(stand: Stand, dice: Random) -> None:
    """SIGSTOP of the API."""
    async with stand.lock(API), _frozen(stand.kept[API]):
        await asyncio.sleep(stand.spell(dice, 2, 8, 15))


@kind
async def valkey_killed(stand: Stand, dice: Random) -> None:
    """kill -9 of Valkey, which keeps nothing; it is away for a while."""
    async with stand.lock("valkey"):
        await stand.valkey.end(signal.SIGKILL)
        await asyncio.sleep(stand.spell(dice, 0.2, 3, 8))
        await stand.valkey.start()


@kind
async def valkey_frozen(stand: Stand, dice: Random) -> None:
    """SIGSTOP of Valkey: connections stand, and nothing answers."""
    async with stand.lock("valkey"):
        os.kill(stand.valkey.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(stand.spell(dice, 1, 5, 12))
        finally:
            os.kill(stand.valkey.pid, signal.SIGCONT)


@kind
async def valkey_flushed(stand: Stand, dice: Random) -> None:
    """FLUSHALL, some times in a row."""
    async with stand.lock("valkey"), _redis(stand) as redis:
        for _ in range(dice.choice((1, 3, 5))):
            await redis.flushall()
            await asyncio.sleep(0.3)


@kind
async def valkey_full(stand: Stand, dice: Random) -> None:
    """No memory left, nothing may be evicted: every write is refused."""
    async with stand.lock("valkey"), _redis(stand) as redis:
        await redis.config_set("maxmemory-policy", "noeviction")
        await redis.config_set("maxmemory", 1)
        try:
            await asyncio.sleep(stand.spell(dice, 2, 6, 12))
        finally:
            await redis.config_set("maxmemory", 0)


@kind
async def postgres_restarted(stand: Stand, dice: Random) -> None:
    """An immediate shutdown, as in a crash, and recovery from the log."""
    async with stand.lock("postgres"):
        for _ in range(dice.choice((1, 1, 3))):
            await stand.postgres.end(signal.SIGQUIT)
            await asyncio.sleep(stand.spell(dice, 0.1, 2, 5))
            await stand.postgres.start()


@kind
async def postgres_frozen(stand: Stand, dice: Random) -> None:
    """SIGSTOP of the whole of PostgreSQL, as when its disk stalls: connections stand, and nothing answers."""
    async with stand.lock("postgres"):
        head = psutil.Process(stand.postgres.pid)
        stopped = [head]
        head.suspend()  # so that no child is born meanwhile
        try:
            for child in head.children(recursive=True):
                child.suspend()
                stopped.append(child)
            await asyncio.sleep(stand.spell(dice, 3, 8, 20))
        finally:
            for process in stopped:
                process.resume()


@kind
async def postgres_backend_killed(stand: Stand, dice: Random) -> None:
    """kill -9 of one backend: PostgreSQL throws everybody out and recovers by itself."""
    async with stand.lock("postgres"):
        name = dice.choice((API, *WORKERS))
        if not (backends := stand.proxies[name].backends):
            raise NotNow
        victim = dice.choice(backends)
        if not await stand.control.value("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", victim):
            raise NotNow
        os.kill(victim, signal.SIGKILL)
        await asyncio.sleep(0.2)
        await stand.control.value("SELECT 1")


@kind
async def backends_terminated(stand: Stand, dice: Random) -> None:
    """pg_terminate_backend of everybody, some times in a row."""
    async with stand.lock("postgres"):
        for _ in range(dice.choice((1, 3))):
            await stand.control.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE " + THEIRS)
            await asyncio.sleep(0.5)


@kind
async def commits_cut(stand: Stand, dice: Random) -> None:
    """COMMIT is done and its answer is lost, with the connection."""
    name, count = dice.choice((API, *WORKERS)), dice.choice((1, 3, 6))
    weather = stand.proxies[name].weather
    async with stand.lock("weather"):
        weather.cut_commits = count
        try:
            await _until(lambda: weather.cut_commits < count)
            await asyncio.sleep(2)
        finally:
            weather.cut_commits = 0


@kind
async def connections_reset(stand: Stand, dice: Random) -> None:
    """Every connection of one process, or of all, is reset, some times in a row."""
    names = dice.choice(([API], *([worker] for worker in WORKERS), [API, *WORKERS]))
    for _ in range(dice.choice((1, 3))):
        for name in names:
            stand.proxies[name].reset()
        await asyncio.sleep(0.4)


@kind
async def half_open(stand: Stand, dice: Random) -> None:
    """The network swallows everything, of one process or of all; nobody is told."""
    names = dice.choice((*([each] for each in (API, *WORKERS)), [API, *WORKERS]))
    seconds = stand.spell(dice, 5, 12, 20)
    async with stand.lock("half open"):
        await asyncio.gather(*(stand.proxies[name].half_open(seconds) for name in names))


@kind
async def latency(stand: Stand, dice: Random) -> None:
    """Half a second for every question."""
    await _weather(stand, dice, latency_s=0.5)


@kind
async def throttle(stand: Stand, dice: Random) -> None:
    """A thin line."""
    await _weather(stand, dice, bytes_per_s=4000.0)


@kind
async def disk_full(stand: Stand, dice: Random) -> None:
    """No space for a while: for items, for what the runbook writes, or for the audit."""
    table, seconds = dice.choice(("operation_run_items", "effects", "audit_events")), stand.spell(dice, 1, 3, 5)
    await stand.control.rows(
        "INSERT INTO full_tables VALUES ($1, clock_timestamp() + $2 * interval '1 s') "
        "ON CONFLICT (name) DO UPDATE SET until = excluded.until",
        table, seconds,
    )  # fmt: skip
    await asyncio.sleep(seconds)


@kind
async def clock_skew(stand: Stand, dice: Random) -> None:
    """A process is started again with a clock that is an hour wrong; some seconds later it jumps right."""
    name, hours = dice.choice((API, *WORKERS)), dice.choice((-1, 1))
    note = stand.home / f"{name}.clock"
    async with stand.lock(name):
        note.write_text(f"{hours:+}h\n")
        stand.kept[name].extra = {
            "LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(note), "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1",
        }  # fmt: skip
        await _restarted(stand.kept[name], signal.SIGKILL)
        await asyncio.sleep(stand.spell(dice, 5, 12))
        note.write_text("+0\n")
        await asyncio.sleep(1)


THEIRS = "backend_type = 'client backend' AND application_name <> 'nemesis'"
# Of the backends $1 of the process $2.
IN_TRANSACTION = """
    SELECT EXISTS (
        SELECT FROM pg_stat_activity
        WHERE pid = ANY($1) AND xact_start IS NOT NULL AND query NOT ILIKE '%pg_try_advisory%'
    ) AND $2 > 0
"""
BETWEEN_CHUNKS = """
    SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ANY($1) AND xact_start IS NOT NULL) AND EXISTS (
        SELECT FROM operation_run_items JOIN processes ON processes.id = leased_by
        WHERE state = 'running' AND processes.pid = $2 AND lease_token > 0 AND updated_count > 0
    )
"""
HOLDS_A_SWEEP = """
    SELECT EXISTS (SELECT FROM pg_locks WHERE pid = ANY($1) AND locktype = 'advisory' AND granted) AND $2 > 0
"""


async def _ended(stand: Stand, name: str, how: signal.Signals) -> None:
    async with stand.lock(name):
        await _restarted(stand.kept[name], how)


async def _restarted(kept: Kept, how: signal.Signals) -> None:
    starts = kept.starts
    kept.send(how)
    try:
        await kept.next_start(starts)
    except TimeoutError:
        raise AssertionError(f"{kept.name} was told to end and did not") from None


async def _weather(stand: Stand, dice: Random, **values: float) -> None:
    names = dice.choice((*([each] for each in (API, *WORKERS)), [API, *WORKERS]))
    async with stand.lock("weather"):
        for name in names:
            vars(stand.proxies[name].weather).update(values)
        await asyncio.sleep(stand.spell(dice, 3, 8))
        for name in names:
            weather = stand.proxies[name].weather
            weather.latency_s, weather.bytes_per_s = 0.0, None


@asynccontextmanager
async def _held_commits(stand: Stand, name: str, seconds: float = 0.3) -> AsyncIterator[None]:
    """While answers to COMMIT take their time, there is a moment in which it is done and its asker cannot know."""
    weather = stand.proxies[name].weather
    weather.hold_commits_s = seconds
    try:
        yield
    finally:
        weather.hold_commits_s = 0.0


async def _until(condition: Callable[[], bool]) -> None:
    ends = asyncio.get_running_loop().time() + PATIENCE_S
    while not condition():
        if asyncio.get_running_loop().time() > ends:
            raise NotNow
        await asyncio.sleep(0.01)


@asynccontextmanager
async def _frozen_when(stand: Stand, name: str, condition: str) -> AsyncIterator[None]:
    """Freeze a process in a state of its database sessions, and make sure that it is frozen in that state."""
    ends = asyncio.get_running_loop().time() + PATIENCE_S
    while asyncio.get_running_loop().time() < ends:
        if await _is_so(stand, name, condition):
            async with _frozen(stand.kept[name]):
                await asyncio.sleep(0.02)
                if await _is_so(stand, name, condition):
                    yield
                    return
        await asyncio.sleep(0.01)
    raise NotNow


async def _is_so(stand: Stand, name: str, condition: str) -> bool:
    return bool(await stand.control.value(condition, stand.proxies[name].backends, stand.kept[name].pid))


@asynccontextmanager
async def _frozen(kept: Kept) -> AsyncIterator[None]:
    kept.send(signal.SIGSTOP)
    try:
        yield
    finally:
        kept.send(signal.SIGCONT)


@asynccontextmanager
async def _redis(stand: Stand) -> AsyncIterator[Redis]:
    redis = Redis.from_url(stand.redis_url, socket_timeout=5)
    try:
        yield redis
    finally:
        await redis.aclose()
