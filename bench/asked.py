"""What a measurement is asked for, and what it works with."""

from dataclasses import dataclass

from bench.figures import Report
from bench.stand import Stand


@dataclass(frozen=True)
class Asked:
    """The amounts; each measurement takes those that concern it."""

    rows: int = 1_000_000
    tenants: int = 1_000
    repeats: int = 5
    seconds: float = 10
    clients: int = 50


@dataclass(frozen=True)
class Bench:
    """Servers to measure on, and where to say what came out."""

    stand: Stand
    report: Report
    asked: Asked
