"""What a tenant costs when there is nothing to repair in it, and what many of them cost in memory."""

from dataclasses import dataclass

import psutil

from bench import figures
from bench.asked import Bench
from bench.data import Shape
from bench.stand import NOTHING, Installation

STEPS = (1, 10, 100)
FINDINGS = 1000


@dataclass
class Memory:
    """Resident memory, in MiB."""

    api: float
    workers: float

    @classmethod
    def of(cls, installation: Installation) -> "Memory":
        """As it is now."""
        return cls(_mib([installation.server]), _mib(installation.workers))


async def measure(bench: Bench) -> None:
    """At three sizes, on one installation each, whose memory is looked at before and after."""
    bench.report.say(
        f"empty runbook, ms per tenant ({bench.asked.repeats} runs each; goal <= 0.3, whatever the number)"
    )
    for tenants in (bench.asked.tenants * step for step in STEPS):
        await _measure(bench, tenants)


async def _measure(bench: Bench, tenants: int) -> None:
    shape = Shape(FINDINGS, tenants)
    await bench.stand.copy(shape)
    async with bench.stand.installed(shape) as installation:
        before = Memory.of(installation)
        seconds = [(await installation.run(NOTHING)).seconds for _ in range(bench.asked.repeats)]
        after = Memory.of(installation)
    each_ms = [took * 1000 / tenants for took in seconds]
    bench.report.keep("tenants", tenants=tenants, ms=each_ms, before=vars(before), after=vars(after))
    bench.report.say(
        f"  {tenants:7,} tenants {figures.spread(each_ms, 'ms', digits=3)}  "
        f"RSS, MiB: API {before.api:.0f} to {after.api:.0f}, workers {before.workers:.0f} to {after.workers:.0f}"
    )


def _mib(processes: list[psutil.Process]) -> float:
    return float(sum(process.memory_info().rss for process in processes) >> 20)
