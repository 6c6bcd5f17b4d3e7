"""The list of runs, 50 of a million and with all checks, against a bare endpoint that shows the same."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from bench import asker, figures, stand
from bench.asked import Bench
from bench.asker import Heard
from bench.data import Shape
from bench.stand import COPY

CONNECTIONS = 8
SHAPE = Shape(1000, 100)
OPSPLANE, BARE = "/system/ops/runs?limit=50", "/runs?limit=50"
_COLUMNS = """
    SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute
    WHERE attrelid = 'operation_runs'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
    AND attname NOT IN ('id', 'created_at')"""
_COPIES = """
    INSERT INTO operation_runs (id, created_at, {columns})
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text), 1, 3)
            || '8' || substr(md5(n::text), 4, 15))::uuid, at, {columns}
    FROM (SELECT * FROM operation_runs WHERE status = 'completed' LIMIT 1) done,
        (SELECT n, timestamptz '2024-01-01 00:00+00' + n * interval '20 seconds' AS at
         FROM generate_series(1, {rows}) n) moments"""


async def measure(bench: Bench) -> None:
    """In turn, each for so many seconds."""
    await bench.stand.copy(SHAPE)
    async with bench.stand.installed(SHAPE) as furnished:  # its first run is the one that is copied
        await _fill(furnished.db, bench.asked.rows)
    async with bench.stand.installed(SHAPE, workers=0) as installation, _bare(bench) as address:
        contests = {"opsplane": (installation.address, OPSPLANE), "bare": (address, BARE)}
        heard: dict[str, list[Heard]] = {name: [] for name in contests}
        for _ in range(bench.asked.repeats):
            for name, (where, path) in contests.items():
                one = await asker.ask(
                    where, path, installation.token, connections=CONNECTIONS, seconds=bench.asked.seconds
                )
                bench.report.keep("runs", contestant=name, runs=bench.asked.rows, per_s=one.per_s)
                heard[name].append(one)
    _say(bench, heard)


def _say(bench: Bench, heard: dict[str, list[Heard]]) -> None:
    bench.report.say(f"list of runs: 50 of {bench.asked.rows:,}, {CONNECTIONS} connections")
    for name, ones in heard.items():
        answers_ms = [took for one in ones for took in one.answers_ms]
        bench.report.say(
            f"  {name:9}{figures.spread([one.per_s for one in ones], '/s', digits=0)}  ms: "
            f"p50 {figures.percentile(answers_ms, 0.5):.1f}, p99 {figures.percentile(answers_ms, 0.99):.1f}; "
            f"{ones[0].size / 1024:.0f} KiB each"
        )
    per_s = {name: [one.per_s for one in ones] for name, ones in heard.items()}
    ratio, noise = figures.ratio(per_s["opsplane"], per_s["bare"]), figures.noise(per_s["bare"])
    bench.report.say(f"  ratio {ratio:.2f} (goal >= 0.70); noise: the bare endpoint's fastest / slowest {noise:.2f}")


async def _fill(db: asyncpg.Connection, rows: int) -> None:
    """So many copies of the run that has completed."""
    columns = await db.fetchval(_COLUMNS)
    await db.execute("SET session_replication_role = replica")
    await db.execute(_COPIES.format(columns=columns, rows=rows))
    await db.execute("RESET session_replication_role")
    await db.execute("VACUUM (ANALYZE, FREEZE) operation_runs")


@asynccontextmanager
async def _bare(bench: Bench) -> AsyncIterator[str]:
    servers, port = bench.stand.servers, stand.free_port()
    command = stand.module("bench.bare", servers.url(COPY), port)
    with stand.process(command, bench.stand.environment(), servers.home / "bare.log"):
        while not await stand.answers(port):
            await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
