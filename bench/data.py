"""The dataset: tenants of skewed sizes whose findings lie interleaved on disk, 60 % of them to be repaired.

Sizes follow the inverse cumulative distribution of 1/x, as of customers: the first of 1,000 tenants has a tenth of the
findings, the last one in ten thousand. Rows arrive in the order of time, which is the hard case for work by tenant.
"""

from dataclasses import dataclass

import asyncpg

OPEN = "status IN ('new', 'triaged', 'in_progress', 'reopened', 'acknowledged')"
TRIAGED = "status IN ('triaged', 'in_progress', 'acknowledged')"
WRONG = f"""(
    status = 'acknowledged' OR first_seen_at IS NULL OR last_seen_at IS NULL OR times_seen IS NULL OR times_seen < 1
    OR ({OPEN} AND (sla_days IS NULL OR due_at IS NULL))
    OR ({TRIAGED} AND triaged_at IS NULL)
    OR (status = 'resolved' AND resolved_at IS NULL)
    OR (status = 'closed' AND closed_at IS NULL))"""
SLA = """coalesce(sla_days, CASE severity WHEN 'critical' THEN 3 WHEN 'high' THEN 7 WHEN 'medium' THEN 14
    WHEN 'low' THEN 30 ELSE 90 END)"""
CHANGED = "coalesce(updated_at, created_at)"
FIRST_SEEN = "coalesce(first_seen_at, created_at)"
SET = f"""
    status = CASE WHEN status = 'acknowledged' THEN 'triaged' ELSE status END,
    first_seen_at = {FIRST_SEEN},
    last_seen_at = coalesce(last_seen_at, greatest({CHANGED}, {FIRST_SEEN})),
    times_seen = greatest(times_seen, 1),
    sla_days = CASE WHEN {OPEN} THEN {SLA} ELSE sla_days END,
    due_at = CASE WHEN {OPEN} THEN coalesce(due_at, {FIRST_SEEN} + {SLA} * interval '1 day') ELSE due_at END,
    triaged_at = CASE WHEN {TRIAGED} THEN coalesce(triaged_at, {CHANGED}) ELSE triaged_at END,
    resolved_at = CASE WHEN status = 'resolved' THEN coalesce(resolved_at, {CHANGED}) ELSE resolved_at END,
    closed_at = CASE WHEN status = 'closed' THEN coalesce(closed_at, {CHANGED}) ELSE closed_at END"""

TENANTS = "SELECT id FROM tenants WHERE external_id <> 'platform' ORDER BY external_id"

_UUID7 = """
    CREATE FUNCTION pg_temp.uuid7(ms bigint, seed text) RETURNS uuid IMMUTABLE LANGUAGE sql RETURN
    (lpad(to_hex(ms), 12, '0') || '7' || substr(md5(seed), 1, 3) || '8' || substr(md5(seed), 4, 15))::uuid"""
_ADD_TENANTS = """
    INSERT INTO tenants (id, workspace_id, external_id, name)
    SELECT pg_temp.uuid7(1700000000000 + n, 'tenant' || n), (SELECT id FROM workspaces WHERE slug = 'default'),
           'tenant-' || lpad(n::text, 6, '0'), 'Tenant ' || n
    FROM generate_series(1, {tenants}) n"""
_ADD_FINDINGS = """
    INSERT INTO findings (id, workspace_id, tenant_id, external_ref, title, severity, status, fingerprint, evidence,
        first_seen_at, last_seen_at, times_seen, sla_days, due_at, triaged_at, resolved_at, closed_at,
        created_at, updated_at)
    SELECT pg_temp.uuid7((extract(epoch FROM created_at) * 1000)::bigint, 'finding' || i), workspace,
        pg_temp.uuid7(1700000000000 + tenant, 'tenant' || tenant), 'R' || i, 'Finding ' || i, severity,
        CASE WHEN old AND status = 'triaged' AND i % 2 = 0 THEN 'acknowledged' ELSE status END,
        md5(i::text), {evidence},
        CASE WHEN NOT older THEN created_at END,
        CASE WHEN NOT older THEN created_at + interval '3 hours' END,
        CASE WHEN NOT older THEN 1 + i % 9 END,
        CASE WHEN NOT old THEN 30 END,
        CASE WHEN NOT old THEN created_at + interval '30 days' END,
        CASE WHEN NOT old THEN created_at + interval '2 days' END,
        CASE WHEN NOT old AND status IN ('resolved', 'closed') THEN created_at + interval '9 days' END,
        CASE WHEN NOT old AND status = 'closed' THEN created_at + interval '10 days' END,
        created_at, created_at + interval '1 day'
    FROM (SELECT i, (SELECT id FROM workspaces WHERE slug = 'default') AS workspace,
            least({tenants}, floor(exp(random() * ln({tenants} + 1)))::int) AS tenant,
            (ARRAY['new', 'triaged', 'in_progress', 'reopened', 'resolved', 'closed'])[1 + floor(random() * 6)::int]
                AS status,
            (ARRAY['critical', 'high', 'medium', 'low'])[1 + floor(random() * 4)::int] AS severity,
            kind < 0.48 AS older, kind < 0.60 AS old,
            timestamptz '2025-01-01 00:00+00' + interval '365 days' * (i::float8 / {rows}) AS created_at
        FROM (SELECT i, random() AS kind FROM generate_series(1, {rows}) i OFFSET 0) drawn OFFSET 0) made"""
_EVIDENCE = """jsonb_build_object('scanner', 'trivy', 'rule', md5(i::text), 'asset', md5((i * 7)::text),
        'path', '/srv/app/lib/module-' || (i % 997) || '/file.py', 'score', i % 100)"""
_INDEXES = """
    SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename = 'findings'
    AND indexname NOT IN (SELECT conname FROM pg_constraint)"""


@dataclass(frozen=True)
class Shape:
    """How much data; `slim` findings carry no evidence."""

    rows: int
    tenants: int
    slim: bool = False

    @property
    def template(self) -> str:
        """The database that holds it, to be copied."""
        return f"template_{self.rows}_{self.tenants}{'_slim' if self.slim else ''}"


async def fill(connection: asyncpg.Connection, shape: Shape) -> None:
    """Insert tenants and findings, the same for equal shapes; indexes are made afterwards."""
    evidence = "'{}'" if shape.slim else _EVIDENCE
    facts = {"rows": shape.rows, "tenants": shape.tenants, "evidence": evidence}
    await connection.execute("SET max_parallel_workers_per_gather = 0; SET session_replication_role = replica")
    await connection.execute(_UUID7)
    await connection.execute(_ADD_TENANTS.format(**facts))
    indexes = await connection.fetch(_INDEXES)
    for index in indexes:
        await connection.execute(f'DROP INDEX "{index["indexname"]}"')
    await connection.execute("SELECT setseed(0.42)")
    await connection.execute(_ADD_FINDINGS.format(**facts))
    await connection.execute("SET maintenance_work_mem = '1GB'")
    for index in indexes:
        await connection.execute(index["indexdef"])
    await connection.execute("VACUUM (ANALYZE, FREEZE)")


@dataclass(frozen=True)
class Content:
    """What lies in the table: two repairs that did the same leave the same."""

    rows: int
    wrong: int
    digest: str


async def content(connection: asyncpg.Connection) -> Content:
    """Count and digest all findings, by plain SQL that shares nothing with the runbook."""
    row = await connection.fetchrow(
        f"SELECT count(*), count(*) FILTER (WHERE {WRONG}), sum(hash_record_extended(f, 0))::text FROM findings f"
    )
    return Content(*row)
