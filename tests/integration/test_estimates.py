"""Preflights of large tables: estimated if they must be, labelled, and never of tenants out of scope."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.orm import InstrumentedAttribute

from opsplane import doctor
from opsplane.auth.actors import Actor
from opsplane.findings.models import Finding
from opsplane.runbooks import counting, estimating, indexes, plans, registry, service
from opsplane.runbooks.base import RepairRunbook
from opsplane.runbooks.counting import Rows
from opsplane.runbooks.impact import Impact
from opsplane.runbooks.inlining import inlined
from opsplane.runbooks.models import Preflight
from opsplane.runbooks.scopes import Scope
from opsplane.runbooks.service import NothingToDo, Plane, Source
from opsplane.tenants.models import Tenant
from tests import support, web
from tests.integration.conftest import Commands
from tests.support import BACKFILL

MANY = 12_000  # rows fill more blocks than the smallest sample reads
FILL = text("""
    INSERT INTO findings (id, workspace_id, tenant_id, external_ref, title, severity, status, fingerprint,
        first_seen_at, last_seen_at, times_seen, sla_days, due_at)
    SELECT gen_random_uuid(), :workspace, :tenant, 'R1', repeat('x', 150), 'high', 'new', n::text,
        now(), now(), CASE WHEN n % 1000 >= :per_mille THEN 1 END, 7, now() FROM generate_series(1, :rows) n
""")


async def fill(plane: Plane, tenant: Tenant, *, per_mille: int, rows: int = MANY) -> int:
    """Findings of one tenant, so many of a thousand wrong; returns how many these are."""
    values = {"workspace": tenant.workspace_id, "tenant": tenant.id, "per_mille": per_mille, "rows": rows}
    async with plane.db.transaction() as tx:
        await tx.session.execute(FILL, values)
    return await support.wrong_count(plane)


async def platform(plane: Plane) -> Tenant:
    """The tenant that is in no scope."""
    async with plane.db.reading() as session:
        found = await session.scalar(select(Tenant).where(Tenant.external_id == "platform"))
    assert found is not None
    return found


@pytest.fixture
async def analyzed(plane: Plane) -> Callable[[], Awaitable[None]]:
    async def analyze() -> None:
        async with plane.db.transaction() as tx:
            await tx.session.execute(text("ANALYZE findings, tenants"))

    return analyze


@pytest.fixture
def hurried(plane: Plane) -> Plane:
    """No exact count is quick enough for it."""
    return Plane(plane.db, plane.queue, plane.settings.model_copy(update={"preflight_exact_ms": 0}))


async def look(plane: Plane, by: Actor, tenant: str | None = None, *, exact: bool = False) -> Preflight:
    return await service.preflight(plane, BACKFILL, tenant, by=by, source=Source.CLI, exact=exact)


async def test_what_takes_too_long_to_count_is_estimated_and_says_so(
    hurried: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    wrong = await fill(hurried, tenants[0], per_mille=400)
    seen = await look(hurried, operator)
    assert seen.margin_percent is not None
    assert abs(seen.affected_count / wrong - 1) * 100 < max(3 * seen.margin_percent, 10)
    assert abs(seen.total_count / MANY - 1) < 0.2
    assert (seen.estimated_tenants, seen.total_estimated) == (len(tenants), True)
    assert seen.impact.said.startswith("About ")
    assert seen.impact.said.endswith("in at most 3 tenants; estimated from a sample.")


async def test_the_same_is_counted_for_who_asks_for_it_or_has_the_time(
    plane: Plane, hurried: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    wrong = await fill(plane, tenants[0], per_mille=400)
    for seen in (await look(hurried, operator, exact=True), await look(plane, operator)):
        assert (seen.affected_count, seen.total_count, seen.estimated_tenants) == (wrong, MANY, 1)
        assert (seen.margin_percent, seen.total_estimated) == (None, False)


async def test_an_estimate_is_of_the_scope_alone(hurried: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    await fill(hurried, tenants[0], per_mille=1000)
    await fill(hurried, tenants[1], per_mille=0)
    of_one = await look(hurried, operator, "acme")
    assert of_one.impact.estimated
    assert abs(of_one.total_count / MANY - 1) < 0.4
    of_other = await look(hurried, operator, "globex")
    assert (of_other.affected_count, of_other.total_count, of_other.margin_percent) == (0, MANY, None)


async def test_rows_of_the_platform_itself_are_in_no_estimate(
    hurried: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    await fill(hurried, await platform(hurried), per_mille=1000)
    await fill(hurried, tenants[1], per_mille=500)
    seen = await look(hurried, operator)
    assert seen.impact.estimated
    assert seen.total_count < MANY * 1.4
    assert seen.affected_count < MANY * 0.8


async def test_that_there_is_nothing_to_do_is_never_estimated(
    hurried: Plane, operator: Actor, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(hurried, tenants[0], per_mille=0)
    await support.add_findings(hurried, tenants[0], 1)
    seen = await look(hurried, operator)
    assert (seen.affected_count, seen.margin_percent) == (1, None)

    async def nothing(*_: object, **__: object) -> Impact:
        return Impact(affected=0, total=40, tenants=0, margin_percent=5)

    monkeypatch.setattr(registry.find(BACKFILL), "estimate", nothing)
    assert (await look(hurried, operator)).affected_count == 1


async def test_a_run_started_from_an_estimate_counts_exactly_and_remembers(
    hurried: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    wrong = await fill(hurried, tenants[0], per_mille=400)
    seen = await look(hurried, operator)
    run = (await support.start(hurried, operator, preflight_id=seen.id)).run
    assert run.context.preflight.estimated
    await support.drain(hurried, run.id)
    done = await support.show(hurried, run.id)
    assert (done.context.updated_count, done.context.preflight.affected_count) == (wrong, seen.affected_count)
    assert done.progress.said == f"{wrong:,} rows; a sample had said about {seen.affected_count:,}"
    with pytest.raises(NothingToDo):
        await support.start(hurried, operator)


async def test_a_table_too_small_to_sample_is_counted(hurried: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    await support.add_findings(hurried, tenants[0], 7)
    assert (await look(hurried, operator)).margin_percent is None


async def test_a_sample_that_takes_too_long_is_given_up_and_the_transaction_goes_on(
    hurried: Plane, operator: Actor, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = await fill(hurried, tenants[0], per_mille=400)
    slow = "SELECT set_config('statement_timeout', '50', true), pg_sleep(1)"
    monkeypatch.setattr(estimating, "SETTINGS", text("SELECT set_config('statement_timeout', '50', true)"))
    monkeypatch.setattr(estimating, "_places", lambda *_, **__: text(slow + " WHERE :last ::int + :apart ::float > 0"))
    seen = await look(hurried, operator)
    assert (seen.affected_count, seen.margin_percent) == (wrong, None)


async def test_a_quick_count_costs_no_thought_about_a_sample(
    plane: Plane, operator: Actor, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    await support.add_findings(plane, tenants[0], 7)
    monkeypatch.setattr(estimating, "_sample", None)
    monkeypatch.setattr(counting.Rows, "whole", None)
    assert (await look(plane, operator)).affected_count == 7


def repair() -> tuple[RepairRunbook, Rows]:
    runbook = registry.find(BACKFILL)
    assert isinstance(runbook, RepairRunbook)
    return runbook, runbook.rows()


@pytest.mark.parametrize("way", ["picked", "whole", "wrong_alone"])
async def test_every_way_to_count_says_the_same(plane: Plane, tenants: list[Tenant], way: str) -> None:
    await fill(plane, await platform(plane), per_mille=1000, rows=300)
    await fill(plane, tenants[0], per_mille=300, rows=500)
    wrong = await fill(plane, tenants[1], per_mille=900, rows=700)
    scope = await Scope.resolve(plane.db, None)
    async with plane.db.reading() as session:
        rows = repair()[0].rows(scope.tenant_ids())
        affected, total, count = map(int, (await session.execute(getattr(rows, way))).one())
    assert (affected, total, count) == (wrong, wrong if way == "wrong_alone" else 1200, 2)


async def test_the_index_offered_is_used_and_the_total_says_that_it_is_a_guess(
    plane: Plane, operator: Actor, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "QUICK", 0)
    runbook, rows = repair()
    offered = runbook.index()
    assert offered is not None
    wrong = await fill(plane, tenants[0], per_mille=100)
    await execute(plane, indexes.create(offered, rows))
    try:
        await execute(plane, "VACUUM (ANALYZE) findings, tenants")
        seen = await look(plane, operator)
        async with plane.db.reading() as session:
            assert await indexes.advice(session, BACKFILL, offered, rows) is None
    finally:
        await execute(plane, indexes.drop(offered))
    assert (seen.affected_count, seen.estimated_tenants, seen.margin_percent) == (wrong, 1, None)
    assert seen.total_estimated
    assert abs(seen.total_count / MANY - 1) < 0.05
    assert f"of about {MANY:,} rows" in seen.impact.said


async def execute(plane: Plane, statement: str) -> None:
    """Outside of a transaction, as CREATE INDEX CONCURRENTLY must be."""
    async with plane.db.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.exec_driver_sql(statement)


async def test_the_doctor_offers_the_index_and_says_what_it_costs(
    plane: Plane, tenants: list[Tenant], analyzed: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(plane, tenants[0], per_mille=100)
    await analyzed()
    assert (await doctor.CHECKS["indexes"](plane))[1].startswith("every table")
    monkeypatch.setattr(indexes, "LARGE", MANY // 2)
    ok, said = await doctor.CHECKS["indexes"](plane)
    assert ok
    assert f"{BACKFILL}: a preflight looks through {MANY:,} rows" in said
    assert "CREATE INDEX CONCURRENTLY ix_wrong_findings_lifecycle_backfill ON findings (tenant_id, id) WHERE" in said
    assert "inserts of wrong rows take about a third longer, and updates of status, first_seen_at," in said
    assert "DROP INDEX CONCURRENTLY ix_wrong_findings_lifecycle_backfill" in said


async def test_the_doctor_finds_an_index_that_was_never_finished(plane: Plane, tenants: list[Tenant]) -> None:
    runbook, rows = repair()
    offered = runbook.index()
    assert offered is not None
    await execute(plane, indexes.create(offered, rows))
    try:
        mark = f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{offered.name}'::regclass"
        await execute(plane, mark)
        ok, said = await doctor.CHECKS["indexes"](plane)
    finally:
        await execute(plane, indexes.drop(offered))
    assert not ok
    assert "was never finished" in said


async def test_the_doctor_finds_a_table_without_statistics(
    plane: Plane, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(plane, tenants[0], per_mille=100, rows=100)
    monkeypatch.setattr(indexes, "LARGE_BYTES", 0)
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("SET LOCAL allow_system_table_mods = on"))
        await tx.session.execute(text("UPDATE pg_class SET reltuples = -1 WHERE oid = 'findings'::regclass"))
    ok, said = await doctor.CHECKS["indexes"](plane)
    assert not ok
    assert f"{BACKFILL}: the planner knows nothing of its table; ANALYZE findings" in said


class Overdue(RepairRunbook):
    """What is wrong changes by itself."""

    key, title, capability, confirmation_phrase, table = "test.overdue", "Overdue", "test", "OVERDUE", Finding

    def wrong(self) -> ColumnElement[bool]:
        return Finding.due_at < func.now()

    def right(self) -> Mapping[InstrumentedAttribute[Any], Any]:
        return {Finding.status: "closed"}


def test_no_index_is_offered_for_a_selector_that_no_index_can_hold() -> None:
    assert Overdue().index() is None


VALUES = [
    Finding.times_seen < 1,
    Finding.due_at < datetime(2024, 1, 1, tzinfo=UTC),
    Finding.due_at - Finding.created_at > timedelta(days=1),
    Finding.id > uuid.UUID(int=7),
    Finding.severity.in_(["high", "it's 100 % :low"]),
    Finding.evidence.contains({"path": "a:b"}),
]


@pytest.mark.parametrize("condition", VALUES, ids=str)
async def test_a_selector_means_the_same_with_its_values_inlined(plane: Plane, condition: ColumnElement[bool]) -> None:
    async with plane.db.reading() as session:
        bound, written = select(Finding.id).where(condition), select(Finding.id).where(inlined(condition))
        assert list(await session.scalars(bound)) == list(await session.scalars(written)) == []
        assert (await plans.plan(session, written)).cost > 0
    rows = Rows(Finding, Finding.tenant_id, condition, select(Tenant.id))
    offered = indexes.partial("a.b", condition, on=("id",))
    if "evidence" in str(condition):  # SQLAlchemy writes no literal of this type
        assert offered is None
        return
    assert offered is not None
    await execute(plane, indexes.create(offered, rows))
    await execute(plane, indexes.drop(offered))


async def test_the_command_line_says_that_it_is_an_estimate_and_how_to_count(
    commands: Commands, plane: Plane, tenants: list[Tenant]
) -> None:
    wrong = await fill(plane, tenants[0], per_mille=400)
    looks = ("runbooks", "preflight", BACKFILL)
    guessed = await asyncio.to_thread(commands.run, *looks, OPSPLANE_PREFLIGHT_EXACT_MS="0")
    assert "estimated from a sample" in guessed.stdout
    assert "--exact counts" in guessed.stderr
    counted = await asyncio.to_thread(commands.run, *looks, "--exact", "--json", OPSPLANE_PREFLIGHT_EXACT_MS="0")
    assert (json.loads(counted.stdout)["affected_count"], json.loads(counted.stdout)["estimated"]) == (wrong, False)
    index = await asyncio.to_thread(commands.run, "runbooks", "index", BACKFILL)
    assert index.stdout.startswith("CREATE INDEX CONCURRENTLY ix_wrong_findings_lifecycle_backfill")
    assert "no longer HOT" in index.stderr


async def test_rest_says_that_it_is_an_estimate_and_counts_when_asked_to(hurried: Plane, tenants: list[Tenant]) -> None:
    wrong = await fill(hurried, tenants[0], per_mille=400)
    async with web.doors(hurried) as doors:
        who = await web.platform_user(hurried, *registry.capabilities())
        client = await doors.signed_in(who.email)
        url = f"/system/ops/runbooks/{BACKFILL}/preflight"
        guessed = (await client.post(url, json={})).json()
        counted = (await client.post(url, json={"exact": True})).json()
    assert (guessed["estimated"], guessed["total_estimated"], guessed["can_start"]) == (True, True, True)
    assert guessed["margin_percent"] > 0
    assert guessed["said"].startswith(
        f"About {guessed['affected_count']:,} (± {guessed['margin_percent']:g} %) of about"
    )
    assert (counted["affected_count"], counted["estimated"], counted["margin_percent"]) == (wrong, False, None)
    assert counted["said"] == f"{wrong:,} of {MANY:,} rows, in 1 tenant."
