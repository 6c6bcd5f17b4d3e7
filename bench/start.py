"""`POST start` by many clients at once on different tenants, against the very statements it sends, sent by themselves.

The statements are those of real starts: recorded once on one copy of the data, played on another.
"""

import asyncio
import pickle
import time
from collections import deque
from typing import Any

import asyncpg

from bench import figures, recorder, stand
from bench.asked import Bench
from bench.client import Client
from bench.data import TENANTS, Shape
from bench.recorder import Steps
from bench.stand import BACKFILL, COPY, Installation

LOOKED = "looked"
ROWS_A_TENANT = 20
STARTS_EACH = 10
START = f"/system/ops/runbooks/{BACKFILL}/start"
Orders = list[dict[str, Any]]


async def measure(bench: Bench) -> None:
    """Preflights are made beforehand, by nobody's clock; no worker runs."""
    tenants = bench.asked.clients * STARTS_EACH
    shape = Shape(tenants * ROWS_A_TENANT, tenants)
    orders = await _look(bench, shape)
    recorded = await _record(bench, shape, orders)
    statements = [sql for sql, _ in recorded[0] if not sql.startswith(recorder.FRAME)]
    took: dict[str, list[list[float]]] = {"opsplane": [], "raw": []}
    for _ in range(bench.asked.repeats):
        await bench.stand.copy_of(LOOKED)
        async with bench.stand.installed(shape, workers=0) as installation:
            took["opsplane"].append(await _start(installation, orders, bench.asked.clients))
        await _expect(bench, len(orders))
        await bench.stand.copy_of(LOOKED)
        took["raw"].append(await _play(bench, recorded))
        await _expect(bench, len(orders))
    bench.report.say(
        f"start: {bench.asked.clients} clients at once, {STARTS_EACH} starts each; {len(statements)} statements a start"
    )
    p99 = {name: [figures.percentile(one, 0.99) for one in ones] for name, ones in took.items()}
    for name, ones in took.items():
        middle = [figures.percentile(one, 0.5) for one in ones]
        bench.report.keep("start", contestant=name, p50_ms=middle, p99_ms=p99[name], clients=bench.asked.clients)
        bench.report.say(f"  {name:9}p50 {figures.spread(middle, 'ms')}  p99 {figures.spread(p99[name], 'ms')}")
    ratio, noise = figures.ratio(p99["opsplane"], p99["raw"]), figures.noise(p99["raw"])
    bench.report.say(
        f"  ratio of p99 {ratio:.2f} (goal <= 2); noise: the statements' own slowest / fastest {noise:.2f}"
    )


async def _expect(bench: Bench, runs: int) -> None:
    connection = await bench.stand.servers.connect(COPY)
    found = await connection.fetchval("SELECT count(*) FROM operation_runs")
    await connection.close()
    if found != runs:
        raise RuntimeError(f"{found} runs instead of {runs}")


async def _look(bench: Bench, shape: Shape) -> Orders:
    """A preflight of every tenant, in a database that is then copied for each contest."""
    await bench.stand.copy(shape)
    async with bench.stand.installed(shape, workers=0) as installation:
        orders = []
        for tenant in await installation.db.fetch(TENANTS):
            scope = {"kind": "single_tenant", "tenant_id": str(tenant["id"])}
            seen = await installation.preflight(BACKFILL, scope=scope)
            orders.append({"scope": scope, "preflight_id": seen["preflight_id"], "force": True})
    await bench.stand.duplicate(COPY, LOOKED)
    return orders


async def _record(bench: Bench, shape: Shape, orders: Orders) -> list[Steps]:
    """What each start asks of the database, from finding the token to the last commit."""
    await bench.stand.copy_of(LOOKED)
    servers, port = bench.stand.servers, stand.free_port()
    notes = servers.home / "statements.pickle"
    token = bench.stand.tokens[shape.template]
    with stand.process(stand.module("bench.recorder", notes, port), bench.stand.environment(), servers.home / "log"):
        while not await stand.answers(port):
            await asyncio.sleep(0.05)
        client = await Client.connected(f"http://127.0.0.1:{port}", token)
        for order in orders:
            (await client.post(START, order)).json()
        client.close()
    every: list[Steps] = pickle.loads(notes.read_bytes())  # noqa: S301 - of a process of ours
    starts = [steps for steps in every if any("INSERT INTO operation_runs " in sql for sql, _ in steps)]
    return [[(sql, given) for sql, given in steps if not _concerns_the_connection(sql)] for steps in starts]


def _concerns_the_connection(sql: str) -> bool:
    """What a new connection is told once, or asked whether it still lives."""
    return sql == "SELECT" or sql.startswith("SET default_")


async def _start(installation: Installation, orders: Orders, clients: int) -> list[float]:
    waiting, took = deque(orders), list[float]()

    async def one(client: Client) -> None:
        while waiting:
            order = waiting.popleft()
            began = time.perf_counter()
            answer = await client.post(START, order)
            took.append((time.perf_counter() - began) * 1000)
            answer.json()

    connected = [await Client.connected(installation.address, installation.token) for _ in range(clients)]
    await asyncio.gather(*(one(client) for client in connected))
    for client in connected:
        client.close()
    return took


async def _play(bench: Bench, recorded: list[Steps]) -> list[float]:
    waiting, took = deque(recorded), list[float]()

    async def one(connection: asyncpg.Connection) -> None:
        while waiting:
            steps = waiting.popleft()
            began = time.perf_counter()
            for sql, arguments in steps:
                if arguments:
                    await connection.fetch(sql, *arguments)
                else:
                    await connection.execute(sql)
            took.append((time.perf_counter() - began) * 1000)

    connections = [await bench.stand.servers.connect(COPY) for _ in range(bench.asked.clients)]
    await asyncio.gather(*(one(connection) for connection in connections))
    for connection in connections:
        await connection.close()
    return took
