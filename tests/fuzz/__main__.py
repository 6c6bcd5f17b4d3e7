"""`python -m tests.fuzz --requests 20000`: exits with 1 if one answer was wrong."""

import argparse
import asyncio
import math
import secrets
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from pydantic import SecretStr

from opsplane import embedded, migrate
from opsplane.config import Settings
from tests.fuzz import campaign, stand
from tests.fuzz.campaign import WAYS, Tally, Way

OPERATIONS = 134  # of all ways together
AT_ONCE = 2
FIRST, NEXT = ["examples", "coverage", "fuzzing"], ["fuzzing"]


def main() -> int:
    """Run the campaign and print its table."""
    given = _arguments()
    print(f"seed {given.seed}", flush=True)
    tallies: dict[Way, Tally] = {way: Tally() for way in WAYS if not given.only or str(way) in given.only}
    with tempfile.TemporaryDirectory(prefix="opsplane-fuzz-") as home:
        with embedded.running(Path(home) / "servers", durable=False) as endpoints:
            settings = Settings(
                database_url=endpoints.database_url, redis_url=endpoints.redis_url, home=Path(home),
                secret_key=SecretStr(secrets.token_urlsafe(32)),
            )  # fmt: skip
            asyncio.run(migrate.upgrade(settings))
            with stand.serving(settings) as url:
                _drive(asyncio.run(stand.furnish(settings, url)), tallies, given)
        given.log.write_bytes((Path(home) / "serve.log").read_bytes())
    return _report(tallies, given)


def _drive(place: stand.Stand, tallies: dict[Way, Tally], given: argparse.Namespace) -> None:
    ends = time.time() + given.seconds
    for way, tally in tallies.items():
        _add(tally, campaign.by_hand(place, way))
    with ProcessPoolExecutor(AT_ONCE, get_context("spawn")) as pool:
        for turn in range(100):
            missing = given.requests - sum(tally.requests for tally in tallies.values())
            if missing <= 0 or time.time() > ends:
                return
            examples = max(5, min(50, missing // OPERATIONS))  # so that no way waits long for its turn
            phases, seed = (NEXT if turn else FIRST), given.seed + turn
            share_s = max(1, int((ends - time.time()) / math.ceil(len(tallies) / AT_ONCE)))  # on a busy machine, too
            passes = {
                way: pool.submit(
                    campaign.run, place, way, seed=seed, examples=examples, seconds=share_s,
                    phases=phases,
                )
                for way in tallies
            }  # fmt: skip
            for way, done in passes.items():
                _add(tallies[way], done.result())
                print(f"  {way.plane} with {way.credential}: {tallies[way].requests}", flush=True)


def _add(total: Tally, more: Tally) -> None:
    total.statuses += more.statuses
    total.failures |= more.failures


def _report(tallies: dict[Way, Tally], given: argparse.Namespace) -> int:
    failures = [(way, name, said) for way, tally in tallies.items() for name, said in tally.failures.items()]
    for way, name, said in failures:
        print(f"\nFAILED {way.plane} with {way.credential}: {name}\n{said}")
    print(f"\n{'plane':8}{'credential':12}{'requests':>9}{'failures':>10}  statuses")
    for way, tally in tallies.items():
        statuses = " ".join(f"{status}:{count}" for status, count in sorted(tally.statuses.items()))
        print(f"{way.plane:8}{way.credential:12}{tally.requests:9}{len(tally.failures):10}  {statuses}")
    total = sum(tally.requests for tally in tallies.values())
    defects = sum(count for tally in tallies.values() for status, count in tally.statuses.items() if status >= 500)
    print(f"{total} requests, {defects} of them 5xx, {len(failures)} failures; --seed {given.seed} replays them")
    if total < given.requests:
        print(f"only {total} of {given.requests} requests were made in {given.seconds} s")
    return 1 if failures or defects or total < given.requests else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Generated requests to both planes.")
    parser.add_argument("--requests", type=int, default=20_000, help="at least so many")
    parser.add_argument("--seconds", type=int, default=1800, help="at most so long")
    parser.add_argument("--only", action="append", choices=[str(way) for way in WAYS], help="repeatable; default: all")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--log", type=Path, default=Path("/dev/null"), help="where the server's log is kept")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
