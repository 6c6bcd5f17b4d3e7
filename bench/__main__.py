"""`python -m bench [PART ...]`: measure side by side with what one would write by hand."""

import argparse
import asyncio
import dataclasses
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import backfill, neighbours, peers, preflight, profiling, runs, servers, start, tenants
from bench.asked import Asked, Bench
from bench.figures import Report
from bench.stand import Stand

PARTS: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "backfill": backfill.measure,
    "tenants": tenants.measure,
    "runs": runs.measure,
    "start": start.measure,
    "neighbours": neighbours.measure,
    "preflight": preflight.measure,
    "profile": profiling.measure,
    "peers": peers.measure,
}


def main() -> int:
    """Measure what is asked for, one part after the other."""
    given = _arguments()
    chosen = {field.name: getattr(given, field.name) for field in dataclasses.fields(Asked)}
    asked = Asked(**{name: value for name, value in chosen.items() if value is not None})
    report = Report(given.results)
    report.machine()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers end as well
    with tempfile.TemporaryDirectory(prefix="opsplane-bench-") as home, servers.running(Path(home)) as running:
        asyncio.run(
            _measure(
                given.parts or [part for part in PARTS if part != "peers" or given.peers],
                Bench(Stand(running), report, asked),
            )
        )
    return 0


async def _measure(parts: list[str], bench: Bench) -> None:
    for part in parts:
        await PARTS[part](bench)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; without any, all but peers")
    parser.add_argument("--rows", type=_amount, help="findings")
    parser.add_argument("--tenants", type=_amount)
    parser.add_argument("--repeats", type=_amount, help="of each contestant")
    parser.add_argument("--seconds", type=float, help="of each measurement that goes by time")
    parser.add_argument("--clients", type=_amount, help="that start runs at once")
    parser.add_argument("--results", type=Path, help="file to which lines of JSON are added")
    parser.add_argument("--peers", action="store_true", help="measure the peers as well, which installs them")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return given


def _amount(given: str) -> int:
    if int(given) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(given)


if __name__ == "__main__":
    sys.exit(main())
