"""Promises that take minutes to prove, at default settings: `python -m tests.faults.endurance rolling|valkey|cancel|soak`."""

import argparse
import asyncio
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

import httpx
import psutil
from redis.asyncio import Redis

from tests.faults import history, kinds, nemesis, reading, stand
from tests.faults.campaign import quantile
from tests.faults.client import REASON
from tests.faults.history import History
from tests.faults.runbooks.marks import LONG_ROWS, ROWS
from tests.faults.stand import API, TENANTS, WORKERS, Stand

LONG, ALL, ONE = "test.marks.long", "test.marks.all", "test.marks.one"
SPARED = "worker-1"  # and the API: whose memory is watched must live long
KILLED = "worker-2"
# Those that need not end the API or the spared worker.
KINDS = (
    "worker_frozen", "worker_frozen_in_a_transaction", "sweeper_frozen", "api_frozen", "valkey_killed",
    "valkey_frozen", "valkey_flushed", "valkey_full", "postgres_restarted", "postgres_backend_killed",
    "backends_terminated", "commits_cut", "connections_reset", "half_open", "latency", "throttle", "disk_full",
)  # fmt: skip
SAMPLE_S = 5.0
WARM_S = 180.0


class Operator:
    """Starts and controls runs over HTTP."""

    def __init__(self, place: Stand) -> None:
        self.place = place
        headers = {"Authorization": f"Bearer {place.token}"}
        fresh = httpx.Limits(max_keepalive_connections=0)  # an idle one may be closed just as it is used again
        self.client = httpx.AsyncClient(base_url=place.url, headers=headers, timeout=30, limits=fresh)
        self.started: dict[str, list[str]] = {}

    async def start(self, runbook: str, tenant: str | None = None, key: str | None = None) -> str:
        """The id of a new run."""
        scope = {"kind": "all_tenants"} if tenant is None else {"kind": "single_tenant", "tenant_id": tenant}
        body = {"scope": scope, "confirmation": "BACKFILL", "reason": REASON}
        answer = await self.client.post(
            f"/system/ops/runbooks/{runbook}/start", json=body, headers={"Idempotency-Key": key} if key else {}
        )
        assert answer.status_code == 202, answer.text
        run_id = str(answer.json()["id"])
        self.started[key or run_id] = [run_id]
        return run_id

    async def history(self, since: int, *, rows: int) -> History:
        """What happened since then."""
        found = await reading.read(self.place.control, since, rows=rows, tenants=TENANTS)
        return self.told(found)

    def told(self, found: History) -> History:
        """The history, with what was answered about its runs."""
        ids = {run.id for run in found.runs}
        found.starts = {key: runs for key, runs in self.started.items() if ids.intersection(runs)}
        return found

    async def start_somehow(self, runbook: str, key: str) -> str:
        """The same, asked until it is answered."""
        while True:
            try:
                return await self.start(runbook, key=key)
            except (httpx.TransportError, AssertionError):
                await asyncio.sleep(0.5)

    async def ask(self, run_id: str, what: str) -> None:
        """Pause, resume or cancel."""
        answer = await self.client.post(f"/system/ops/runs/{run_id}/{what}", json={})
        assert answer.status_code == 202, answer.text

    async def under_way(self, run_id: str) -> None:
        """Wait until something has been repaired."""
        while not await self.place.control.value("SELECT count(*) FROM effects WHERE run_id = $1", run_id):
            await asyncio.sleep(0.05)

    async def completed(self, run_id: str, *, within_s: float) -> str:
        """The outcome, once there is one."""
        async with asyncio.timeout(within_s):
            while True:
                rows = await self.place.control.rows("SELECT status, outcome FROM operation_runs WHERE id = $1", run_id)
                if rows[0]["status"] == "completed":
                    return str(rows[0]["outcome"])
                await asyncio.sleep(0.05)


async def rolling(place: Stand, operator: Operator, rounds: int) -> bool:
    """So many SIGTERMs, one worker after the other, during one run."""
    since = await reading.watermark(place.control)
    run_id = await operator.start(LONG)
    for number in range(rounds):
        await operator.under_way(run_id)
        kept = place.kept[WORKERS[number % len(WORKERS)]]
        starts = kept.starts
        kept.send(signal.SIGTERM)
        await kept.next_start(starts)
        await place.ready()
    status = await place.control.value("SELECT status FROM operation_runs WHERE id = $1", run_id)
    outcome = await operator.completed(run_id, within_s=600)
    took = [each.took_s for each in place.exits if each.took_s is not None]
    codes = Counter(each.code for each in place.exits)
    unexpected = [each for each in place.exits if each.unexpected]
    problems = history.check(await operator.history(since, rows=LONG_ROWS))
    say(f"{len(took)} SIGTERMs during one run ({status} after the last): {outcome}; exit codes {dict(codes)}")
    say(
        f"each exit took {spread(took)} s; unexpected exits {unexpected or 'none'}; problems {[str(each) for each in problems] or 'none'}"
    )
    return (status, outcome) == ("running", "succeeded") and max(took) <= 25 and not unexpected and not problems


async def valkey(place: Stand, operator: Operator, seconds: int) -> bool:
    """FLUSHALL in the middle of a run; then Valkey is away for a long time, while runs are started."""
    since = await reading.watermark(place.control)
    run_id = await operator.start(ALL)
    await operator.under_way(run_id)
    redis = Redis.from_url(place.redis_url)
    await redis.flushall()
    began = time.monotonic()
    outcome = await operator.completed(run_id, within_s=120)
    say(f"FLUSHALL in the middle of a run: {outcome} {time.monotonic() - began:.1f} s later")
    await place.valkey.end(signal.SIGKILL)
    latencies: list[float] = []
    lasted: list[float] = []
    outcomes = Counter[str]()
    gone = time.monotonic()
    while time.monotonic() < gone + seconds:
        tenant = f"tenant-{len(latencies) % TENANTS + 1:02}"
        began = time.monotonic()
        run_id = await operator.start(ONE, tenant)
        latencies.append(time.monotonic() - began)
        outcomes[await operator.completed(run_id, within_s=120)] += 1
        lasted.append(time.monotonic() - began)
    await place.valkey.start()
    began = time.monotonic()
    run_id = await operator.start(ALL)
    back = await operator.completed(run_id, within_s=120)
    say(f"{len(latencies)} starts while Valkey was away for {seconds} s: answered in {spread(latencies)} s")
    say(
        f"their runs lasted {spread(lasted)} s: {dict(outcomes)}; once it was back: {back} in {time.monotonic() - began:.1f} s"
    )
    problems = history.check(await operator.history(since, rows=ROWS))
    say(f"problems {[str(each) for each in problems] or 'none'}")
    return max(latencies) <= 1 and set(outcomes) == {"succeeded"} and {outcome, back} == {"succeeded"} and not problems


async def cancel(place: Stand, operator: Operator, rounds: int) -> bool:
    """How long after it was asked for a run is cancelled: with workers at work, and with all of them dead."""
    dice = Random(5)
    alive = [await _cancelled(place, operator, dice, kill=False) for _ in range(rounds)]
    dead = [await _cancelled(place, operator, dice, kill=True) for _ in range(max(1, rounds // 5))]
    say(f"{len(alive)} runs at work were cancelled {spread(alive)} s after it was asked")
    say(f"{len(dead)} whose workers were killed at that moment: {spread(dead)} s")
    return quantile(sorted(alive), 0.95) <= 5 and max(dead) <= 45


async def _cancelled(place: Stand, operator: Operator, dice: Random, *, kill: bool) -> float:
    run_id = await operator.start(LONG)
    await operator.under_way(run_id)
    await asyncio.sleep(dice.uniform(0.1, 1.5))
    starts = {name: place.kept[name].starts for name in WORKERS}
    if kill:
        for name in WORKERS:
            place.kept[name].send(signal.SIGKILL)
    began = time.monotonic()
    await operator.ask(run_id, "cancel")
    assert await operator.completed(run_id, within_s=90) == "cancelled"
    took = time.monotonic() - began
    if kill:
        for name in WORKERS:
            await place.kept[name].next_start(starts[name])
        await place.ready()
    return took


async def soak(place: Stand, operator: Operator, seconds: int) -> bool:
    """A fault every ten seconds while one run follows another: memory, idle transactions, connections, locks."""
    watch = Watch(place)
    place.longest_s = 8.0
    ends, began = time.monotonic() + seconds, time.monotonic()
    hurting = asyncio.create_task(_hurt(place, ends))
    watching = asyncio.create_task(watch.until(ends))
    outcomes, problems, number = Counter[str](), [], 0
    while time.monotonic() < ends - 30:
        number += 1
        since = await reading.watermark(place.control)
        run_id = await operator.start_somehow(ALL, key=f"soak-{number}")
        outcomes[await operator.completed(run_id, within_s=180)] += 1
        found = operator.told(await nemesis.settled(place, since))
        found.excused = frozenset({"worker_lost", "database_error"})
        problems += [f"{time.monotonic() - began:.0f} s: {each}" for each in history.check(found)]
    hit = await hurting
    await watching
    place.clear()
    await asyncio.sleep(20)
    say(f"{seconds} s, {sum(hit.values())} faults of {len(hit)} kinds, {number} runs: {dict(outcomes)}")
    say(f"faults by kind: {dict(sorted(hit.items()))}")
    flat = watch.report()
    held = await nemesis.held(place)
    unexpected = [each for each in place.exits if each.unexpected]
    say(
        f"locks kept in the end: {held or 'none'}; unexpected exits: {unexpected or 'none'}; problems {problems or 'none'}"
    )
    return flat and not held and not unexpected and not problems and watch.idle_s <= 15 + 1


async def _hurt(place: Stand, ends: float) -> Counter[str]:
    dice, hit = Random(30), Counter[str]()
    while time.monotonic() < ends - 20:
        began = time.monotonic()
        name = dice.choice((*KINDS, "worker_killed", "worker_terminated"))
        try:
            if name in KINDS:
                await kinds.KINDS[name](place, Random(dice.randrange(2**31)))
            else:
                place.kept[KILLED].send(signal.SIGKILL if name == "worker_killed" else signal.SIGTERM)
            hit[name] += 1
        except kinds.NotNow:
            pass
        await asyncio.sleep(max(0.0, 10 - (time.monotonic() - began)))
    return hit


class Watch:
    """Looks at memory and sessions every few seconds."""

    def __init__(self, place: Stand) -> None:
        self._place = place
        self._memory: dict[str, list[tuple[float, float]]] = {API: [], SPARED: []}
        self._sessions: list[int] = []
        self.idle_s = 0.0

    async def until(self, ends: float) -> None:
        """Look until then."""
        began = time.monotonic()
        while time.monotonic() < ends:
            for name, samples in self._memory.items():
                used = psutil.Process(self._place.kept[name].pid).memory_full_info().uss / 2**20
                samples.append((time.monotonic() - began, used))
            sql = f"SELECT count(*), max(extract(epoch FROM clock_timestamp() - state_change)) FILTER (WHERE state LIKE 'idle in%') FROM pg_stat_activity WHERE {kinds.THEIRS}"
            [(sessions, idle_s)] = [tuple(row) for row in await self._place.control.rows(sql)]
            self._sessions.append(sessions)
            self.idle_s = max(self.idle_s, float(idle_s or 0))
            await asyncio.sleep(SAMPLE_S)

    def report(self) -> bool:
        """Say it; whether memory was flat."""
        flat = True
        for name, samples in self._memory.items():
            warm = [used for at, used in samples if WARM_S <= at < WARM_S + 180] or [used for _, used in samples[:10]]
            first, last = statistics.median(warm), statistics.median(used for _, used in samples[-36:])
            growth = last / first - 1
            flat = flat and growth <= 0.10
            say(
                f"memory of {name} (unique set): {first:.1f} MB after 3 to 6 minutes, {last:.1f} MB in the last three: {growth:+.1%}"
            )
        first, last = statistics.median(self._sessions[:36]), statistics.median(self._sessions[-36:])
        say(
            f"database sessions: median {first} in the first three minutes, {last} in the last, at most {max(self._sessions)}"
        )
        say(f"longest idle in a transaction: {self.idle_s:.1f} s")
        return flat


def spread(values: Sequence[float]) -> str:
    """Median, 95th percentile and largest."""
    ordered = sorted(values)
    return ", ".join(
        f"{name} {quantile(ordered, share):.2f}"
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
    )


def say(line: str) -> None:
    """Print at once."""
    print(line, flush=True)  # noqa: T201


Trial = Callable[[Stand, Operator, int], Awaitable[bool]]
TRIALS: dict[str, tuple[Trial, int]] = {
    "rolling": (rolling, 20), "valkey": (valkey, 300), "cancel": (cancel, 40), "soak": (soak, 1800),
}  # fmt: skip


async def _run(name: str, amount: int | None) -> bool:
    trial, usual = TRIALS[name]
    async with stand.opened() as place:
        operator = Operator(place)
        async with operator.client:
            return await trial(place, operator, amount or usual)


def main() -> int:
    """Run one trial; 1 if its promise was not kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.endurance", description=__doc__)
    parser.add_argument("trial", choices=list(TRIALS))
    parser.add_argument("--amount", type=int, help="rounds, or seconds for valkey and soak")
    given: Any = parser.parse_args()
    kept = asyncio.run(_run(given.trial, given.amount))
    say("kept" if kept else "NOT KEPT")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
