"""Many schedules on a few stands side by side; every result is a line in a file, and a seed in it is not played again."""

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import nemesis, stand
from tests.faults.history import History, Wrong
from tests.faults.nemesis import Result
from tests.faults.stand import Stand

SCHEDULES_PER_STAND = 25
BREAKS = 10  # stands that broke before the campaign is given up
Say = Callable[[str], None]


@dataclass
class Campaign:
    """What to play, and where to write what came of it."""

    seeds: Sequence[int]
    results: Path
    say: Say = print
    left: list[int] = field(default_factory=list)
    broken: int = 0

    async def run(self, lanes: int) -> None:
        """Play every seed that has no result yet."""
        played = {line["seed"] for line in lines(self.results)}
        self.left = [seed for seed in self.seeds if seed not in played]
        self.say(f"{len(self.left)} of {len(self.seeds)} seeds to play in {lanes} lanes; results in {self.results}")
        await asyncio.gather(*(self._lane(number * 4.0) for number in range(min(lanes, len(self.left)))))

    async def _lane(self, delay_s: float) -> None:
        """One stand after another; a stand that a schedule may have broken is not used again."""
        await asyncio.sleep(delay_s)  # stands that start together starve each other
        while self.left and self.broken < BREAKS:
            try:
                async with stand.opened() as place:
                    await self._stay(place)
            except Exception as error:  # noqa: BLE001 - the other lanes go on
                self.broken += 1
                self.say(f"      a stand broke: {error!r}")

    async def _stay(self, place: Stand) -> None:
        for _ in range(SCHEDULES_PER_STAND):
            if not self.left or not await self._play(place, self.left.pop(0)):
                return

    async def _play(self, place: Stand, seed: int) -> bool:
        try:
            result, found = await nemesis.play(place, nemesis.schedule(seed))
        except Exception as error:  # noqa: BLE001 - a stand that breaks is a result too
            result = Result(seed, [], problems=[f"{Wrong.HARNESS}: {error!r}"], wrong=[Wrong.HARNESS])
            found = History(rows=0)
        self._write(result)
        if not result.ok:
            await place.dump()
            self._keep(place, result, found)
        return result.ok

    def _write(self, result: Result) -> None:
        with self.results.open("a") as file:
            file.write(json.dumps(result.line()) + "\n")
        faults = " ".join(f"{hit.kind}{'' if hit.hit else '?'}" for hit in result.faults)
        faults += "".join(f" +{act}" for act in result.acts)
        self.say(
            f"{result.seed:5} {'ok' if result.ok else 'FAILED':6} {result.recovery_s:5} s  {result.seconds:5} s  {faults}"
        )
        for problem in result.problems:
            self.say(f"      {problem}")

    def _keep(self, place: Stand, result: Result, found: History) -> None:
        """Logs, and everything the checker saw."""
        folder = self.results.with_suffix("") / f"seed-{result.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        for log in place.home.glob("*.log"):
            shutil.copy(log, folder)
        (folder / "result.json").write_text(json.dumps(result.line(), indent=1))
        (folder / "history.json").write_text(json.dumps(asdict(found), indent=1, default=str))
        self.say(f"      evidence in {folder}")


def lines(results: Path) -> list[dict[str, Any]]:
    """What is in a file of results."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def summary(found: Iterable[dict[str, Any]]) -> str:
    """The campaign as a page of numbers."""
    all_ = list(found)
    hits = [hit for line in all_ for hit in line["faults"] if hit["hit"]]
    missed = Counter(hit["error"] or "moment did not come" for line in all_ for hit in line["faults"] if not hit["hit"])
    wrong = Counter(what for line in all_ for what in line["wrong"])
    recoveries = sorted(line["recovery_s"] for line in all_)
    failing = [line["seed"] for line in all_ if line["verdict"] != "ok"]
    by_kind = Counter(hit["kind"] for hit in hits)
    return "\n".join((
        f"schedules {len(all_)}, runs {sum(line['runs'] for line in all_)}, faults {len(hits)} of {len(by_kind)} kinds",
        "faults by kind: " + ", ".join(f"{name} {count}" for name, count in sorted(by_kind.items())),
        f"not done: {dict(missed)}",
        (f"lost {wrong['lost']}, duplicate {wrong['duplicate']}, drift {wrong['drift']}, double {wrong['double']}, "
        f"other {dict(wrong - Counter(lost=10**9, duplicate=10**9, drift=10**9, double=10**9))}"),
        f"items given up with an excuse: {sum(len(line['given_up']) for line in all_)}",
        (f"recovery after the last fault: p50 {quantile(recoveries, 0.5)} s, p95 {quantile(recoveries, 0.95)} s, "
        f"max {quantile(recoveries, 1.0)} s"),
        (
            f"processes: {sum(not each['asked'] for line in all_ for each in line['exits'])} ended by themselves while starting, "
            f"the slowest took {max((line['slowest_start_s'] for line in all_), default=0.0)} s to start"
        ),
        f"failing seeds: {failing or 'none'}",
    ))  # fmt: skip


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that so many are not above."""
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0
