"""What a storm came to: numbers that add up over slices, and say themselves."""

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STEP = 1.05  # a bucket of the histogram is so much wider than the one before


@dataclass
class Latency:
    """Milliseconds in buckets."""

    buckets: Counter[int] = field(default_factory=Counter)
    worst_ms: float = 0

    def add(self, ms: float) -> None:
        """One more."""
        self.buckets[math.ceil(math.log(max(ms, 0.01), STEP))] += 1
        self.worst_ms = max(self.worst_ms, ms)

    def quantile(self, share: float) -> float:
        """Milliseconds that so many did not take longer than, to 5 %."""
        left = share * self.buckets.total()
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 0:
                return min(STEP**bucket, self.worst_ms)
        return 0

    def __str__(self) -> str:
        shares = ", ".join(f"{name} {self.quantile(share):.0f}" for name, share in SHARES.items())
        return f"{shares}, max {self.worst_ms:.0f} ms"


SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass
class Tally:
    """Counts of one slice, or of many."""

    way: str
    rounds: int = 0
    starts: int = 0
    runs: int = 0
    overlaps: int = 0
    wrong: Counter[str] = field(default_factory=Counter)  # by what was wrong
    seconds: float = 0
    started: Latency = field(default_factory=Latency)
    refused: Latency = field(default_factory=Latency)

    @property
    def ok(self) -> bool:
        """Whether nothing but runs and refusals came of it, and no two runs overlapped."""
        return self.rounds > 0 and not self.wrong and not self.overlaps

    def add(self, other: "Tally") -> None:
        """Count another slice's too."""
        for name in ("rounds", "starts", "runs", "overlaps", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.wrong.update(other.wrong)
        for ours, theirs in ((self.started, other.started), (self.refused, other.refused)):
            ours.buckets.update(theirs.buckets)
            ours.worst_ms = max(ours.worst_ms, theirs.worst_ms)

    def __str__(self) -> str:
        wrong = "".join(f"\n  {count} of {what}" for what, count in self.wrong.most_common()) or " 0"
        return (
            f"{self.way}: {self.rounds:,} rounds, {self.starts:,} starts in {self.seconds:,.0f} s "
            f"({self.rounds / max(self.seconds, 0.01):.1f} rounds/s)\n"
            f"overlaps {self.overlaps}; started {self.started.buckets.total():,} (202), "
            f"refused {self.refused.buckets.total():,} (409), anything else:{wrong}\n"
            f"start to 202: {self.started}\nstart to 409: {self.refused}"
        )


def keep(results: Path, tally: Tally) -> None:
    """Append a slice."""
    with results.open("a") as file:
        file.write(json.dumps(tally, default=vars) + "\n")


def kept(results: Path, way: str) -> Tally:
    """The sum of a way's slices so far."""
    total = Tally(way)
    for line in results.read_text().splitlines() if results.exists() else []:
        if (slice_ := _read(json.loads(line))).way == way:
            total.add(slice_)
    return total


def _read(line: dict[str, Any]) -> Tally:
    latencies = {
        name: Latency(Counter({int(bucket): count for bucket, count in line[name]["buckets"].items()}), line[name]["worst_ms"])
        for name in ("started", "refused")
    }  # fmt: skip
    return Tally(**(line | latencies | {"wrong": Counter(line["wrong"])}))
