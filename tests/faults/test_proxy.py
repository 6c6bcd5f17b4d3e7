"""The bad network before a real PostgreSQL."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from opsplane import embedded
from tests.faults.proxy import Frames, Proxy

LOST = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)


@pytest.fixture
async def proxy(servers: embedded.Endpoints) -> AsyncIterator[Proxy]:
    folder = parse_qs(urlsplit(servers.database_url or "").query)["host"][0]
    proxy = Proxy(Path(folder) / ".s.PGSQL.5432")
    await proxy.open()
    yield proxy
    await proxy.close()


@asynccontextmanager
async def connected(proxy: Proxy, table: str | None = None) -> AsyncIterator[Any]:
    url = f"postgresql://postgres@127.0.0.1:{proxy.port}/opsplane"
    connection = await asyncpg.connect(url)  # asks for encryption first, which has an answer of its own form
    try:
        if table is not None:
            await connection.execute(f"DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (n int)")
        yield connection
    finally:
        connection.terminate()


async def test_a_cut_commit_is_done_and_nobody_is_told(proxy: Proxy) -> None:
    async with connected(proxy, "cut_commits") as connection:
        proxy.weather.cut_commits = 1
        with pytest.raises(LOST):
            async with connection.transaction():
                await connection.execute("INSERT INTO cut_commits VALUES (1)")
    async with connected(proxy) as connection:
        assert await connection.fetchval("SELECT count(*) FROM cut_commits") == 1
        async with connection.transaction():
            await connection.execute("INSERT INTO cut_commits VALUES (2)")
    assert proxy.weather.cut_commits == 0


async def test_commits_without_a_change_and_rollbacks_are_not_cut(proxy: Proxy) -> None:
    async with connected(proxy, "idle_commits") as connection:
        proxy.weather.cut_commits = 1
        async with connection.transaction():
            await connection.execute("UPDATE idle_commits SET n = 1")
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction():
                await connection.execute("INSERT INTO idle_commits VALUES (1)")
                raise ZeroDivisionError
        async with connection.transaction():
            assert await connection.fetchval("SELECT count(*) FROM idle_commits") == 0
    assert proxy.weather.cut_commits == 1


async def test_a_held_commit_is_done_while_its_asker_waits(proxy: Proxy) -> None:
    async with connected(proxy, "held_commits") as connection, connected(proxy) as other:
        proxy.weather.hold_commits_s = 0.5
        waiting = asyncio.create_task(connection.execute("BEGIN; INSERT INTO held_commits VALUES (1); COMMIT"))
        while not proxy.commits_held:
            await asyncio.sleep(0.01)
        assert await other.fetchval("SELECT count(*) FROM held_commits") == 1
        assert not waiting.done()
        await waiting


async def test_a_reset_ends_every_connection_and_new_ones_pass(proxy: Proxy) -> None:
    async with connected(proxy) as one, connected(proxy) as other:
        proxy.reset()
        for connection in (one, other):
            with pytest.raises(LOST):
                await connection.fetchval("SELECT 1")
    async with connected(proxy) as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_a_half_open_connection_says_nothing_and_is_reset_in_the_end(proxy: Proxy) -> None:
    async with connected(proxy) as connection:
        swallowing = asyncio.create_task(proxy.half_open(0.6))
        await asyncio.sleep(0)
        started = time.monotonic()
        with pytest.raises(LOST):
            await connection.fetchval("SELECT 1")
        assert time.monotonic() - started > 0.5
        await swallowing
    async with connected(proxy) as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_a_new_connection_finds_a_half_open_network_silent(proxy: Proxy) -> None:
    swallowing = asyncio.create_task(proxy.half_open(0.6))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3), connected(proxy):
            pass
    await swallowing


async def test_latency_and_a_thin_line_take_their_time(proxy: Proxy) -> None:
    async with connected(proxy) as connection:
        proxy.weather.latency_s = 0.3
        started = time.monotonic()
        await connection.execute("SELECT 1")
        assert 0.3 <= time.monotonic() - started < 0.8
        proxy.weather.latency_s, proxy.weather.bytes_per_s = 0, 10_000
        started = time.monotonic()
        await connection.execute("SELECT repeat('x', 4000)")
        assert time.monotonic() - started >= 0.4


async def test_the_proxy_knows_the_backends_behind_it(proxy: Proxy) -> None:
    async with connected(proxy) as one, connected(proxy) as other:
        pids = sorted([await one.fetchval("SELECT pg_backend_pid()"), await other.fetchval("SELECT pg_backend_pid()")])
        assert proxy.backends == pids


def test_frames_are_found_however_the_stream_is_cut() -> None:
    stream = b"N" + b"C\0\0\0\x0bCOMMIT\0" + b"Z\0\0\0\x05I" + b"C\0\0\0\x0dROLLBACK\0"
    for size in (1, 2, 7, len(stream)):
        frames = Frames()
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        found = [frame for piece in pieces for frame in frames.split(piece)]
        assert b"".join(frame for _, frame in found) == stream
        assert [kind for kind, _ in found] == [b"", b"C", b"Z", b"C"]
