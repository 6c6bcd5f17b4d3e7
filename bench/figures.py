"""Figures as people read them, and as lines of JSON for machines."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opsplane import __version__


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which so much of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def spread(values: Sequence[float], unit: str = "s", *, digits: int = 2) -> str:
    """Median, least and most."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:8.{digits}f} {unit}  [{low:.{digits}f} to {high:.{digits}f}]"


def chunks(seconds: Sequence[float]) -> str:
    """How long chunks took, in ms."""
    at = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    shown = (f"{name} {percentile(seconds, share) * 1000:.1f}" for name, share in at.items())
    return f"{len(seconds)} chunks, ms: {', '.join(shown)}"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over median."""
    return statistics.median(ours) / statistics.median(theirs)


def noise(values: Sequence[float]) -> float:
    """Most over least of what should always be the same."""
    return max(values) / min(values)


class Report:
    """Says what was measured, and keeps it."""

    def __init__(self, results: Path | None) -> None:
        self._results = results

    def say(self, line: str) -> None:
        """A line for people."""
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def keep(self, bench: str, **facts: Any) -> None:
        """A line for machines."""
        if self._results is not None:
            with self._results.open("a") as out:
                out.write(json.dumps({"bench": bench, "at": datetime.now(UTC).isoformat(), **facts}) + "\n")

    def machine(self) -> None:
        """Where this was measured."""
        facts = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
        self.say(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, opsplane {__version__}, {facts}")
