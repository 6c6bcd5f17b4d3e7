"""One tenant's part of a run, for those who await and for those who do not; `WARM_UP` has no part to repair."""

import asyncio
import os
import re
import threading
import uuid
from typing import Any

import asyncpg

from bench.data import SET, TENANTS, WRONG

CHUNK_ROWS = 2000
AT_ONCE = 4  # in each of two worker processes
FIRST = uuid.UUID(int=0)
WARM_UP, WARM_UP_JOBS = 0, 40
SCHEMA = """
    CREATE TABLE crew_run (id int PRIMARY KEY, total int NOT NULL, done int NOT NULL DEFAULT 0,
        updated bigint NOT NULL DEFAULT 0, finished_at timestamptz) WITH (fillfactor = 50);
    CREATE TABLE crew_item (run_id int, tenant_id uuid, state text NOT NULL DEFAULT 'pending', cursor uuid,
        updated bigint NOT NULL DEFAULT 0, attempts int NOT NULL DEFAULT 0, started_at timestamptz,
        finished_at timestamptz, PRIMARY KEY (run_id, tenant_id)) WITH (fillfactor = 50)"""
ADD_RUN = "INSERT INTO crew_run (id, total) VALUES ($1, $2)"
ADD_ITEMS = "INSERT INTO crew_item (run_id, tenant_id) SELECT $1, unnest($2::uuid[])"
START = """UPDATE crew_item SET state = 'running', attempts = attempts + 1, started_at = clock_timestamp()
    WHERE run_id = $1 AND tenant_id = $2 RETURNING cursor"""
CHUNK = f"""
    WITH chunk AS (
        SELECT id FROM findings WHERE tenant_id = $1 AND id > $2 AND {WRONG} ORDER BY id LIMIT {CHUNK_ROWS}
    ), changed AS (
        UPDATE findings f SET {SET} FROM chunk WHERE f.id = chunk.id AND f.tenant_id = $1 RETURNING 1
    ), found AS (
        SELECT (SELECT count(*) FROM changed) AS rows, (SELECT id FROM chunk ORDER BY id DESC LIMIT 1) AS last
    ), kept AS (
        UPDATE crew_item SET cursor = coalesce(found.last, cursor), updated = updated + found.rows FROM found
        WHERE run_id = $3 AND tenant_id = $1
    )
    SELECT rows, last FROM found"""
FINISH = """
    WITH item AS (
        UPDATE crew_item SET state = 'done', finished_at = clock_timestamp() WHERE run_id = $1 AND tenant_id = $2
        RETURNING updated
    )
    UPDATE crew_run SET done = done + 1, updated = crew_run.updated + coalesce((SELECT updated FROM item), 0),
        finished_at = CASE WHEN done + 1 >= total THEN clock_timestamp() END WHERE id = $1"""

_pools: dict[int, asyncio.Task[asyncpg.Pool]] = {}
_own = threading.local()


def database() -> str:
    """The address of the copy that is repaired."""
    return os.environ["BENCH_DATABASE_URL"]


def queue() -> str:
    """The address of Valkey, as redis-py spells it."""
    return os.environ["BENCH_REDIS_URL"]


async def repair(run: int, tenant: str) -> None:
    """Start, chunks, end; each commits by itself."""
    async with (await _pool()).acquire() as connection:
        if run != WARM_UP:
            last = await connection.fetchval(START, run, tenant) or FIRST
            while (chunk := await connection.fetchrow(CHUNK, tenant, last, run))["rows"] == CHUNK_ROWS:
                last = chunk["last"]
        await connection.execute(FINISH, run, tenant)


def repair_now(run: int, tenant: str) -> None:
    """The same without a loop of events, on a connection of this thread."""
    import psycopg  # noqa: PLC0415 - only they have it who need it

    if not hasattr(_own, "connection"):
        _own.connection = psycopg.connect(database(), autocommit=True)
    if run != WARM_UP:
        last = _ask(START, run, tenant)[0] or FIRST
        while (chunk := _ask(CHUNK, tenant, last, run))[0] == CHUNK_ROWS:
            last = chunk[1]
    _ask(FINISH, run, tenant)


def _ask(sql: str, *arguments: object) -> Any:
    numbers = [int(number) - 1 for number in re.findall(r"\$(\d)", sql)]
    cursor = _own.connection.execute(re.sub(r"\$\d", "%s", sql), [arguments[n] for n in numbers], prepare=True)
    return cursor.fetchone() if cursor.description else None


async def _pool() -> asyncpg.Pool:
    key = id(asyncio.get_running_loop())
    if key not in _pools:
        _pools[key] = asyncio.create_task(asyncpg.create_pool(database(), min_size=1, max_size=AT_ONCE).__aenter__())
    return await _pools[key]


async def add_run(run: int) -> list[str]:
    """A run with an item for each tenant; the tenants."""
    connection = await asyncpg.connect(database())
    tenants = [str(row["id"]) for row in await connection.fetch(TENANTS)]
    if run == WARM_UP:
        tenants = (tenants * WARM_UP_JOBS)[:WARM_UP_JOBS]
    await connection.execute(ADD_RUN, run, len(tenants))
    if run != WARM_UP:
        await connection.execute(ADD_ITEMS, run, tenants)
    await connection.close()
    return tenants
