"""Judgements over one reading, a function a signal: is this a database that may be burdened further?"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from opsplane.config import Settings
from opsplane.runs.throttling.readings import Reading

TWICE, FOUR_TIMES = 2, 4
STOP = 0.0
SHARED, BARELY, HALF = 1 / 24, 1 / 8, 1 / 2


class Signal(StrEnum):
    """What is looked at."""

    REPLICA_LAG = "replica_lag"
    LOCK_WAITS = "lock_waits"
    WAL_RATE = "wal_rate"
    ACTIVE_CONNECTIONS = "active_connections"
    CONNECTIONS = "connections"
    VACUUM = "vacuum"


@dataclass(frozen=True)
class Judgement:
    """Why to slow down; `least` is the share of its time in which a drain may work in any case."""

    signal: Signal
    reason: str
    least: float


def judge(reading: Reading, table: str | None, settings: Settings) -> list[Judgement]:
    """Every signal that speaks against going on at full speed with a run over this table, the worst one first."""
    return sorted(_judgements(reading, table, settings), key=lambda one: one.least)


def _judgements(reading: Reading, table: str | None, settings: Settings) -> Iterator[Judgement]:
    found = (
        replica_lag(reading, settings.throttle_replica_lag_s),
        lock_waits(reading, settings.throttle_lock_wait_s),
        wal_rate(reading, settings.throttle_wal_mb_s),
        active_connections(reading, settings.throttle_active_connections),
        connections(reading, settings.throttle_connections_percent),
        vacuum(reading, table) if settings.throttle_vacuum else None,
    )
    return (one for one in found if one is not None)


def replica_lag(reading: Reading, limit_s: float) -> Judgement | None:
    """A standby falls behind: readers of it see old data, and a failover to it would take long."""
    worst = reading.replica
    if not limit_s or worst is None or worst.lag_s <= limit_s:
        return None
    name = "" if worst.name in {"", "walreceiver"} else f" {worst.name}"
    behind = f" and {worst.lag_mb:,.0f} MB" if worst.lag_mb >= 1 else ""
    return _graded(Signal.REPLICA_LAG, f"replica{name} is {worst.lag_s:,.0f} s{behind} behind", worst.lag_s, limit_s)


def lock_waits(reading: Reading, limit_s: float) -> Judgement | None:
    """Somebody waits for a row that a chunk holds."""
    if not limit_s or reading.lock_wait_s <= limit_s:
        return None
    reason = f"another session has waited {reading.lock_wait_s:,.0f} s for a lock of opsplane's"
    return Judgement(Signal.LOCK_WAITS, reason, BARELY)


def wal_rate(reading: Reading, limit_mb_s: float) -> Judgement | None:
    """The database, whoever makes it do so, writes more WAL than archive and network can take."""
    if not limit_mb_s or reading.wal_mb_s is None or reading.wal_mb_s <= limit_mb_s:
        return None
    reason = f"the database writes {reading.wal_mb_s:,.0f} MB of WAL a second"
    return _graded(Signal.WAL_RATE, reason, reading.wal_mb_s, limit_mb_s)


def active_connections(reading: Reading, limit: int) -> Judgement | None:
    """More sessions of others are executing something than the machine is meant for.

    What all drains together take from them is what counts, so they share the time that is left. An application is often
    twice as busy as usual, and small chunks hardly show then; at four times as much it has trouble of its own.
    """
    if not limit or reading.busy <= limit:
        return None
    busy = f"{reading.busy:,.1f}".removesuffix(".0")
    least = STOP if reading.busy > FOUR_TIMES * limit else SHARED / max(1, reading.at_work)
    return Judgement(Signal.ACTIVE_CONNECTIONS, f"{busy} other sessions are executing something", least)


def connections(reading: Reading, limit_percent: int) -> Judgement | None:
    """Few connections are left. They may belong to idle pools, for ever: that must not hold a run up for ever."""
    if not limit_percent or reading.connections * 100 <= limit_percent * reading.max_connections:
        return None
    reason = f"{reading.connections:,} of {reading.max_connections:,} connections are in use"
    return Judgement(Signal.CONNECTIONS, reason, HALF)


def vacuum(reading: Reading, table: str | None) -> Judgement | None:
    """The table itself is being vacuumed, which every updated row makes longer; it may take hours."""
    if table is None or table not in reading.vacuums:
        return None
    why = ", to prevent wraparound of transaction ids" if reading.vacuums[table] else ""
    return Judgement(Signal.VACUUM, f"{table} is being vacuumed{why}", BARELY if why else HALF)


def _graded(signal: Signal, reason: str, value: float, limit: float) -> Judgement:
    return Judgement(signal, reason, STOP if value > TWICE * limit else BARELY)
