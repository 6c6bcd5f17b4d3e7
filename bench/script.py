"""The script an operator would write: two connections, tenants from one list, chunks by key, nothing tracked."""

import asyncio
import time
import uuid
from collections import deque
from dataclasses import dataclass, field

import asyncpg

from bench.data import SET, TENANTS, WRONG

CONNECTIONS = 2
CHUNK_ROWS = 2000
CHUNK = f"""
    WITH chunk AS (
        SELECT id FROM findings WHERE tenant_id = $1 AND id > $2 AND {WRONG} ORDER BY id LIMIT $3
    ), changed AS (
        UPDATE findings f SET {SET} FROM chunk WHERE f.id = chunk.id AND f.tenant_id = $1 RETURNING 1
    )
    SELECT (SELECT count(*) FROM changed) AS rows, (SELECT id FROM chunk ORDER BY id DESC LIMIT 1) AS last"""
FIRST = uuid.UUID(int=0)


@dataclass
class Repair:
    """What it took."""

    seconds: float = 0
    rows: int = 0
    chunks_s: list[float] = field(default_factory=list)


async def repair(url: str) -> Repair:
    """From the first statement to the last; connecting is not counted."""
    connections = [await asyncpg.connect(url) for _ in range(CONNECTIONS)]
    done = Repair()
    began = time.perf_counter()
    tenants = deque(row["id"] for row in await connections[0].fetch(TENANTS))
    await asyncio.gather(*(_work(connection, tenants, done) for connection in connections))
    done.seconds = time.perf_counter() - began
    for connection in connections:
        await connection.close()
    return done


async def _work(connection: asyncpg.Connection, tenants: deque[uuid.UUID], done: Repair) -> None:
    statement = await connection.prepare(CHUNK)
    while tenants:
        tenant, last = tenants.popleft(), FIRST
        while True:
            began = time.perf_counter()
            chunk = await statement.fetchrow(tenant, last, CHUNK_ROWS)
            done.chunks_s.append(time.perf_counter() - began)
            done.rows += chunk["rows"]
            if chunk["rows"] < CHUNK_ROWS:
                break
            last = chunk["last"]
