"""`python -m tests.faults --seeds 500`: the campaign; exits with 1 if one schedule showed something wrong."""

import argparse
import asyncio
import contextlib
import resource
import signal
import sys
from pathlib import Path

from tests.faults import campaign
from tests.faults.campaign import Campaign


def main() -> int:
    """Play what is missing and print the summary of all."""
    given = _arguments()
    seeds = list(range(given.first, given.first + given.seeds))
    if given.seed is not None:  # played whether or not the campaign has
        seeds, given.results = [given.seed], given.results.with_name(f"{given.results.stem}-{given.seed}.jsonl")
        given.results.unlink(missing_ok=True)
    asyncio.run(_play(Campaign(seeds, given.results, say=lambda line: print(line, flush=True)), given.lanes))
    asked = [line for line in campaign.lines(given.results) if line["seed"] in set(seeds)]
    print(campaign.summary(asked))
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(f"processor time used: {sum(each.ru_utime + each.ru_stime for each in used):.0f} s")
    return 0 if all(line["verdict"] == "ok" for line in asked) else 1


async def _play(all_: Campaign, lanes: int) -> None:
    """However it is told to end, it takes its servers and processes along."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await all_.run(lanes)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Seeded schedules of faults.")
    parser.add_argument("--seeds", type=int, default=500, help="so many")
    parser.add_argument("--first", type=int, default=1, help="from this one on")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--lanes", type=int, default=6, help="stands side by side")
    parser.add_argument("--results", type=Path, default=Path("faults.jsonl"), help="seeds in it are not played again")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
