"""The runbook that ships, rule by rule."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text

from opsplane import testing
from opsplane.auth.actors import Actor
from opsplane.findings.models import SEVERITIES, STATUSES, Finding
from opsplane.runbooks.library.findings_lifecycle import RebuildFindingsLifecycle
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import support

CREATED = datetime(2025, 3, 1, tzinfo=UTC)
UPDATED = CREATED + timedelta(days=2)
COMPLETE: dict[str, Any] = {
    "status": "new", "severity": "high", "first_seen_at": CREATED, "last_seen_at": CREATED, "times_seen": 4,
    "sla_days": 7, "due_at": CREATED + timedelta(days=7), "created_at": CREATED, "updated_at": UPDATED,
}  # fmt: skip


async def repaired(plane: Plane, operator: Actor, tenant: Tenant, **values: Any) -> tuple[Finding, int]:
    """One finding that lacks just this, after a run; and how many rows the run updated."""
    await support.add_findings(plane, tenant, 1, **(COMPLETE | values))
    run = (await support.start(plane, operator, tenant=tenant.external_id, force=True)).run
    await support.drain(plane, run.id)
    async with plane.db.reading() as session:
        finding = await session.scalar(select(Finding))
    assert finding is not None
    return finding, (await support.show(plane, run.id)).context.updated_count


RULES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"status": "acknowledged"}, {"status": "triaged", "triaged_at": UPDATED}),
    ({"first_seen_at": None}, {"first_seen_at": CREATED}),
    ({"last_seen_at": None}, {"last_seen_at": UPDATED}),
    ({"last_seen_at": None, "updated_at": None}, {"last_seen_at": CREATED}),
    (
        {"last_seen_at": None, "first_seen_at": UPDATED + timedelta(days=9)},
        {"last_seen_at": UPDATED + timedelta(days=9)},
    ),
    ({"times_seen": None}, {"times_seen": 1}),
    ({"times_seen": 0}, {"times_seen": 1}),
    ({"sla_days": None, "severity": "critical"}, {"sla_days": 3}),
    ({"sla_days": None, "severity": "high"}, {"sla_days": 7}),
    ({"sla_days": None, "severity": "medium"}, {"sla_days": 14}),
    ({"sla_days": None, "severity": "low"}, {"sla_days": 30}),
    ({"sla_days": None, "severity": "informational"}, {"sla_days": 90}),
    ({"due_at": None}, {"due_at": CREATED + timedelta(days=7)}),
    (
        {"due_at": None, "sla_days": None, "first_seen_at": None, "severity": "critical"},
        {"due_at": CREATED + timedelta(days=3), "sla_days": 3, "first_seen_at": CREATED},
    ),
    (
        {"status": "acknowledged", "sla_days": None, "due_at": None},
        {"status": "triaged", "sla_days": 7, "due_at": CREATED + timedelta(days=7), "triaged_at": UPDATED},
    ),
    ({"status": "triaged"}, {"triaged_at": UPDATED}),
    ({"status": "in_progress", "updated_at": None}, {"triaged_at": CREATED}),
    ({"status": "resolved"}, {"resolved_at": UPDATED}),
    ({"status": "closed"}, {"closed_at": UPDATED}),
]


@pytest.mark.parametrize(("lacks", "becomes"), RULES, ids=str)
async def test_a_broken_rule_is_repaired_and_nothing_else_changes(
    plane: Plane, operator: Actor, tenants: list[Tenant], lacks: dict[str, Any], becomes: dict[str, Any]
) -> None:
    finding, updated = await repaired(plane, operator, tenants[0], **lacks)
    expected = {"triaged_at": None, "resolved_at": None, "closed_at": None} | COMPLETE | lacks | becomes
    assert updated == 1
    assert {name: getattr(finding, name) for name in expected} == expected


CORRECT: list[dict[str, Any]] = [
    {},
    {"status": "resolved", "resolved_at": UPDATED, "sla_days": None, "due_at": None},
    {"status": "closed", "closed_at": UPDATED, "sla_days": None},
    {"status": "triaged", "triaged_at": UPDATED},
    {"last_seen_at": CREATED - timedelta(days=1)},
]


@pytest.mark.parametrize("values", CORRECT, ids=str)
async def test_a_correct_row_is_not_written(
    plane: Plane, operator: Actor, tenants: list[Tenant], values: dict[str, Any]
) -> None:
    await support.add_findings(plane, tenants[0], 1, **(COMPLETE | values))
    async with plane.db.reading() as session:
        before = await session.scalar(text("SELECT xmin::text || ctid::text FROM findings"))
    run = (await support.start(plane, operator, tenant="acme", force=True)).run
    await support.drain(plane, run.id)
    async with plane.db.reading() as session:
        assert await session.scalar(text("SELECT xmin::text || ctid::text FROM findings")) == before
    counts = (await support.show(plane, run.id)).summary_counts
    assert (counts["updated"], counts["skipped"]) == (0, 1)


optional_time = st.sampled_from([None, CREATED, UPDATED])
any_finding = st.fixed_dictionaries({
    "status": st.sampled_from(STATUSES), "severity": st.sampled_from(SEVERITIES),
    "first_seen_at": optional_time, "last_seen_at": optional_time, "due_at": optional_time,
    "triaged_at": optional_time, "resolved_at": optional_time, "closed_at": optional_time,
    "times_seen": st.sampled_from([None, -1, 0, 1, 5]), "sla_days": st.sampled_from([None, 1, 30]),
    "updated_at": optional_time, "created_at": st.just(CREATED),
})  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(any_finding, min_size=1, max_size=20))
async def test_whatever_is_wrong_one_run_repairs_it_and_its_count_is_plain_sqls(
    plane: Plane, operator: Actor, tenants: list[Tenant], rows: list[dict[str, Any]]
) -> None:
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("TRUNCATE findings"))
    for row in rows:
        await support.add_findings(plane, tenants[0], 1, **row)
    wrong = await support.wrong_count(plane)
    run = (await support.start(plane, operator, force=True)).run
    await support.drain(plane, run.id)
    done = await support.show(plane, run.id)
    assert (done.context.preflight.affected_count, done.context.updated_count) == (wrong, wrong)
    assert await support.wrong_count(plane) == 0


async def test_it_keeps_what_opsplane_testing_asks_of_every_runbook(plane: Plane) -> None:
    async def seed(session: Any, tenant: Tenant) -> int:
        await session.execute(
            text(
                "INSERT INTO findings (id, workspace_id, tenant_id, external_ref, title, severity, status, fingerprint)"
                " SELECT gen_random_uuid(), :workspace, :tenant, 'R', 't', 'low', 'new', n::text"
                " FROM generate_series(1, 120) n"
            ),
            {"workspace": tenant.workspace_id, "tenant": tenant.id},
        )
        return 120

    await testing.assert_repairs(plane, RebuildFindingsLifecycle, seed=seed)


async def test_a_repair_spans_many_chunks_and_counts_each_row_once(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    await support.add_findings(plane, tenants[0], 2345)
    run = (await support.start(plane, operator)).run
    await support.drain(plane, run.id)
    assert (await support.show(plane, run.id)).context.updated_count == 2345
    async with plane.db.reading() as session:
        assert await session.scalar(select(func.count()).where(Finding.due_at.is_(None))) == 0


async def test_a_row_that_somebody_repairs_meanwhile_is_neither_written_nor_counted(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    await support.add_findings(plane, tenants[0], 3, **(COMPLETE | {"times_seen": None}))
    run = (await support.start(plane, operator)).run
    async with plane.db.transaction() as application:
        first = "UPDATE findings SET times_seen = 77 WHERE id = (SELECT min(id::text)::uuid FROM findings)"
        await application.session.execute(text(first))
        drained = asyncio.create_task(support.drain(plane, run.id))
        await asyncio.sleep(0.5)
        assert not drained.done(), "the chunk waits for the row"
    await drained
    assert (await support.show(plane, run.id)).context.updated_count == 2
    async with plane.db.reading() as session:
        assert set(await session.scalars(select(Finding.times_seen))) == {1, 77}
