"""`python -m bench.oltp DATABASE_URL`: the application's own small transactions, until standard input closes.

Four connections, each in a closed loop: see one finding, and note that it was seen again, by its key.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg
import uvloop

from bench import stand

CONNECTIONS = 4
KEYS = 20_000
LONGEST_LINE = 1 << 28
SEE = "SELECT status, severity, due_at FROM findings WHERE id = $1"
NOTE = "UPDATE findings SET times_seen = coalesce(times_seen, 0) + 1, last_seen_at = clock_timestamp() WHERE id = $1"


@dataclass
class Load:
    """Transactions: when each ended, by the clock of the whole machine, and how long it took."""

    ended: list[tuple[float, float]] = field(default_factory=list)

    def within(self, begins: float, ends: float) -> list[float]:
        """Times of those that ended then, in ms."""
        return [took * 1000 for at, took in self.ended if begins <= at <= ends]


@asynccontextmanager
async def under_way(url: str) -> AsyncIterator[Load]:
    """A load from another process; what it saw is there in the end."""
    process = await asyncio.create_subprocess_exec(
        *stand.module("bench.oltp", url), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        limit=LONGEST_LINE,
    )  # fmt: skip
    load = Load()
    await stand.until_ready(process)
    try:
        yield load
    finally:
        told, _ = await process.communicate(b"")
        load.ended = json.loads(told)


async def _load(url: str) -> list[tuple[float, float]]:
    connections = [await asyncpg.connect(url) for _ in range(CONNECTIONS)]
    keys = [
        row["id"] for row in await connections[0].fetch(f"SELECT id FROM findings ORDER BY md5(id::text) LIMIT {KEYS}")
    ]
    over = asyncio.Event()
    ended: list[tuple[float, float]] = []

    async def one(connection: asyncpg.Connection) -> None:
        see, note = await connection.prepare(SEE), await connection.prepare(NOTE)
        while not over.is_set():
            key, began = random.choice(keys), time.monotonic()  # noqa: S311
            await see.fetch(key)
            await note.fetch(key)
            now = time.monotonic()
            ended.append((now, now - began))

    work = asyncio.gather(*(one(connection) for connection in connections))
    await asyncio.sleep(1)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    over.set()
    await work
    return ended


if __name__ == "__main__":
    json.dump(uvloop.run(_load(sys.argv[1])), sys.stdout)
