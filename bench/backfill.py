"""The backfill of all tenants: two worker processes that track everything, against the hand-written script."""

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from bench import data, figures, script
from bench.asked import Bench
from bench.data import Content, Shape
from bench.figures import Report
from bench.stand import BACKFILL, COPY

SCRIPT, OPSPLANE = "script", "opsplane"


@dataclass
class Times:
    """Of one contestant, over all repeats."""

    seconds: list[float] = field(default_factory=list)
    chunks_s: list[float] = field(default_factory=list)


async def measure(bench: Bench) -> None:
    """In turn, each on the same bytes; both must leave the same."""
    shape = Shape(bench.asked.rows, bench.asked.tenants)
    before = await _content(bench, shape)
    times = {SCRIPT: Times(), OPSPLANE: Times()}
    expected: Content | None = None
    for repeat in range(bench.asked.repeats):
        for name, contest in ((SCRIPT, _by_script), (OPSPLANE, by_opsplane)):
            updated, seconds, chunks_s = await contest(bench, shape)
            after = await content_of_copy(bench)
            expected = expected or after
            if updated != before.wrong or after.wrong or after != expected:
                raise RuntimeError(f"{name} has repaired {updated} of {before.wrong} and left {after}, not {expected}")
            times[name].seconds.append(seconds)
            times[name].chunks_s += chunks_s
            bench.report.keep(
                "backfill", contestant=name, repeat=repeat, seconds=seconds, rows=updated, **_facts(bench)
            )
    _say(bench.report, before, shape, times)


def _say(report: Report, before: Content, shape: Shape, times: dict[str, Times]) -> None:
    theirs, ours = times[SCRIPT], times[OPSPLANE]
    report.say(f"backfill: {before.wrong:,} of {shape.rows:,} findings of {shape.tenants:,} tenants")
    for name, its in times.items():
        report.say(f"  {name:9}{figures.spread(its.seconds)}  {figures.chunks(its.chunks_s)}")
    ratio, noise = figures.ratio(ours.seconds, theirs.seconds), figures.noise(theirs.seconds)
    report.say(f"  ratio {ratio:.2f} (goal <= 1.10); noise: the script's own slowest / fastest {noise:.2f}")


async def _by_script(bench: Bench, shape: Shape) -> tuple[int, float, list[float]]:
    done = await script.repair(await bench.stand.copy(shape))
    return done.rows, done.seconds, done.chunks_s


async def by_opsplane(bench: Bench, shape: Shape) -> tuple[int, float, list[float]]:
    """Rows, seconds from the request that starts the run, and those of each chunk that repaired something."""
    await bench.stand.copy(shape)
    with tempfile.TemporaryDirectory(dir=bench.stand.servers.home) as folder:
        async with bench.stand.installed(shape, notes=Path(folder)) as installation:
            took = await installation.run(BACKFILL)
        noted = [chunk for notes in Path(folder).iterdir() for chunk in json.loads(notes.read_text())]
    return took.updated, took.seconds, [seconds for rows, seconds in noted if rows]


async def _content(bench: Bench, shape: Shape) -> Content:
    await bench.stand.copy(shape)
    return await content_of_copy(bench)


async def content_of_copy(bench: Bench) -> Content:
    """What was left."""
    connection = await bench.stand.servers.connect(COPY)
    found = await data.content(connection)
    await connection.close()
    return found


def _facts(bench: Bench) -> dict[str, int]:
    return {"findings": bench.asked.rows, "tenants": bench.asked.tenants}
