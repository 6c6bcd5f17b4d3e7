"""What PostgreSQL says of its own health, read in statements that need no privilege.

What a role may not see is null to it, and then looks healthy; `opsplane doctor` says so.
"""

import asyncio
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import func, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.config import Settings
from opsplane.runs.models import OperationRunItem, is_now
from opsplane.runs.states import ItemState

MEGABYTE = 1024 * 1024
REMEMBERED, RECENT_S = 5, 15
LOOKS, LOOK_APART_S, LOOKING_S = 10, 0.01, 0.5

item = OperationRunItem
AT_WORK = select(func.count(tuple_(item.leased_by, item.lease_until).distinct())).where(is_now(ItemState.RUNNING))


@dataclass(frozen=True)
class Replica:
    """The streaming standby that is furthest behind."""

    name: str
    lag_s: float
    lag_mb: float


@dataclass(frozen=True)
class Reading:
    """The health of a database now.

    `vacuums` says of tables whether it is against wraparound; `active` are sessions of others that execute something,
    on average of a few looks, and `earlier` is `active` of the readings before, the last one last; `at_work` are drains
    that have tenants in hand. `active` and `at_work` are asked for only where sessions have a limit.
    """

    at: float = 0
    replica: Replica | None = None
    lock_wait_s: float = 0
    active: float = 0
    earlier: tuple[float, ...] = ()
    at_work: int = 0
    connections: int = 0
    max_connections: int = 100
    vacuums: Mapping[str, bool] = field(default_factory=dict)
    wal_mb: float | None = None
    wal_mb_s: float | None = None

    @property
    def busy(self) -> float:
        """Sessions of others that execute something, now or on average of the last readings, whichever is more.

        A crowd that has just come counts at once; one that takes a breath is not gone.
        """
        return max(self.active, statistics.fmean((*self.earlier, self.active)))

    def since(self, before: "Reading | None") -> "Reading":
        """The same, with what can only be told from several of them."""
        if before is None or self.at - before.at > RECENT_S:
            return self  # nobody asked meanwhile, as nobody was at work
        earlier = (*before.earlier, before.active)[1 - REMEMBERED :]
        told = replace(self, earlier=earlier, at_work=self.at_work or before.at_work)  # while all wait, none is at work
        if self.wal_mb is None or before.wal_mb is None or self.at <= before.at:
            return told
        return replace(told, wal_mb_s=max(0, self.wal_mb - before.wal_mb) / (self.at - before.at))


async def read(session: AsyncSession, settings: Settings) -> Reading:
    """The health of the database now; where sessions have a limit, it takes a tenth of a second or longer."""
    given = {"ignored": settings.ignored_replicas, "wal": settings.throttle_wal_mb_s > 0}
    row = (await session.execute(STATEMENT, given)).one()
    return Reading(
        at=float(row.at),
        replica=None if row.replica is None else Replica(**row.replica),
        lock_wait_s=float(row.lock_wait_s or 0),
        active=await _active(session) if settings.throttle_active_connections else 0,
        at_work=await session.scalar(AT_WORK) or 0 if settings.throttle_active_connections else 0,
        connections=row.connections,
        max_connections=row.max_connections,
        vacuums=_by_name(row.vacuums or []),
        wal_mb=None if row.wal_bytes is None else float(row.wal_bytes) / MEGABYTE,
    )


async def _active(session: AsyncSession) -> float:
    """Sessions of others that execute something, on average of a few looks: a single one finds any number of them."""
    seen, ends = [await session.scalar(ACTIVE)], time.monotonic() + LOOKING_S
    while len(seen) < LOOKS and time.monotonic() < ends:
        await asyncio.sleep(LOOK_APART_S)
        seen.append(await session.scalar(ACTIVE))
    return statistics.fmean(seen)


def _by_name(vacuums: list[dict[str, Any]]) -> dict[str, bool]:
    """By the names a model may give: with its schema, and without where the search path leads to it."""
    found: dict[str, bool] = {}
    for one in vacuums:
        names = [f"{one['schema']}.{one['name']}"] + [one["name"]] * one["visible"]
        found |= {name: found.get(name, False) or one["wraparound"] for name in names}
    return found


# Each look clears what it saw: the next one in a transaction would see the same.
ACTIVE = text("""
SELECT count(*), pg_stat_clear_snapshot() FROM pg_stat_activity
WHERE backend_type = 'client backend' AND state = 'active' AND application_name NOT LIKE 'opsplane%'
""")
# A standby that says nothing any more keeps the lag it had: then the age of its last word counts, as soon as it is a
# WAL segment behind. Who waits for whom is expensive to find out, so it is asked of the five that may have waited
# longest, and only while somebody waits. The position in the WAL is not asked for unless it is needed: some managed
# databases refuse it.
STATEMENT = text("""
WITH activity AS MATERIALIZED (
    SELECT pid, datname, wait_event_type, query_start, query,
        coalesce(application_name LIKE 'opsplane%', false) AS ours,
        coalesce(backend_type = 'client backend', datname IS NOT NULL) AS client
    FROM pg_stat_activity
), waiting AS MATERIALIZED (
    SELECT pid FROM activity
    WHERE wait_event_type = 'Lock' AND datname = current_database() AND NOT ours
    ORDER BY query_start LIMIT 5
), replica AS (
    SELECT application_name AS name, round(lag_s::numeric, 1) AS lag_s, round(behind / 1048576.0, 1) AS lag_mb
    FROM pg_stat_replication,
        LATERAL (
            SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), coalesce(replay_lsn, flush_lsn, write_lsn)) AS behind
        ) distance,
        LATERAL (
            SELECT CASE WHEN behind > 0 THEN coalesce(greatest(
                extract(epoch FROM greatest(write_lag, flush_lag, replay_lag)),
                CASE WHEN behind > 16777216 THEN extract(epoch FROM clock_timestamp() - reply_time) END
            ), 0) ELSE 0 END AS lag_s
        ) delay
    WHERE state = 'streaming' AND application_name <> ALL (CAST(:ignored AS text[]))
    ORDER BY delay.lag_s DESC LIMIT 1
), vacuum AS (
    SELECT nspname AS schema, relname AS name, pg_table_is_visible(pg_class.oid) AS visible,
        coalesce(activity.query LIKE '%(to prevent wraparound)', false) AS wraparound
    FROM pg_stat_progress_vacuum running
    JOIN pg_class ON pg_class.oid = coalesce(pg_partition_root(running.relid), running.relid)
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    LEFT JOIN activity ON activity.pid = running.pid
    WHERE running.datname = current_database()
)
SELECT
    extract(epoch FROM clock_timestamp()) AS at,
    current_setting('max_connections')::int AS max_connections,
    (SELECT count(*) FROM activity WHERE client) AS connections,
    (
        SELECT max(extract(epoch FROM clock_timestamp() - waitstart))
        FROM waiting, LATERAL (SELECT waitstart FROM pg_locks WHERE pg_locks.pid = waiting.pid AND NOT granted) lock
        WHERE EXISTS (SELECT FROM activity WHERE ours AND activity.pid = ANY (pg_blocking_pids(waiting.pid)))
    ) AS lock_wait_s,
    (SELECT to_jsonb(replica) FROM replica) AS replica,
    (SELECT jsonb_agg(to_jsonb(vacuum)) FROM vacuum) AS vacuums,
    CASE WHEN CAST(:wal AS boolean) THEN pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') END AS wal_bytes
""")
