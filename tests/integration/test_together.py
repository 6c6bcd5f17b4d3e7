"""Several small tenants are repaired in one statement, as if each had been repaired by itself."""

import asyncio
import json
import random
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Mapped, mapped_column

from opsplane.auth.actors import Actor
from opsplane.findings.models import Finding
from opsplane.runbooks import base, registry
from opsplane.runbooks.base import RepairRunbook
from opsplane.runbooks.chunk import LOOK, Chunk
from opsplane.runbooks.service import Plane
from opsplane.runs import at_once, leases
from opsplane.runs.at_once import AtOnce
from opsplane.runs.chunks import Pace
from opsplane.runs.leases import Lease
from opsplane.runs.models import OperationRunItem
from opsplane.tenants.models import Tenant
from opsplane.workers import supervisor
from tests import support

BY_TITLE = "test.repairs.by_title"


@pytest.fixture
def runbook() -> RepairRunbook:
    found = registry.find(BY_TITLE)
    assert isinstance(found, RepairRunbook)
    return found


async def add(plane: Plane, tenant: Tenant, *, wrong: int, right: int, title: str = "7") -> None:
    """Findings in a random order of ids."""
    for days in random.sample([None] * wrong + [30] * right, wrong + right):
        await support.add_findings(plane, tenant, 1, title=title, sla_days=days)


async def days(plane: Plane, tenant: Tenant) -> dict[int | None, int]:
    async with plane.db.reading() as session:
        rows = await session.execute(
            select(Finding.sla_days, func.count().label("rows"))
            .where(Finding.tenant_id == tenant.id)
            .group_by(Finding.sla_days)
        )
        return {row.sla_days: row.rows for row in rows}


async def claim(plane: Plane, operator: Actor) -> dict[uuid.UUID, Lease]:
    """Leases of all tenants; they do not know what for."""
    run_id = await support.begun(plane, operator)
    async with plane.db.bare(each_alone=True) as bare:
        held = await leases.claim_some(bare, run_id, uuid.uuid4(), 10, lease_s=20)
    return {lease.tenant_id: lease for lease in held}


async def together(plane: Plane, runbook: RepairRunbook, held: Sequence[Lease], limit: int) -> list[Lease]:
    """These tenants as they ended, carried as a worker would carry them."""
    pace = Pace(plane.settings, bundled=True)
    pace.size.rows = limit
    at_work = AtOnce(db=plane.db, runbook=runbook, pace=pace, lease_s=20)
    whole: list[Lease] = []
    waiting = list(held)
    while waiting:
        carried = await at_work.together(waiting)
        assert carried.updated <= limit
        assert carried.whole or carried.unfinished
        whole += carried.whole
        waiting = [*carried.unfinished, *carried.waiting]
    return whole


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_the_limit_each_tenant_is_repaired_once_and_nobody_else(
    plane: Plane, operator: Actor, tenants: list[Tenant], runbook: RepairRunbook, seed: int
) -> None:
    random.seed(seed)
    acme, other, globex = tenants
    wrong = {tenant.id: random.choice([0, 1, 3, 12]) for tenant in tenants}
    for tenant in tenants:
        await add(plane, tenant, wrong=wrong[tenant.id], right=random.choice([0, 2, 30]))
    given = random.sample([acme.id, globex.id], 2)
    before, held = await days(plane, other), await claim(plane, operator)
    whole = await together(plane, runbook, [held[tenant] for tenant in given], limit=random.randint(1, 8))
    assert [(lease.tenant_id, lease.updated, lease.passes) for lease in whole] == [(x, wrong[x], 1) for x in given]
    async with plane.db.reading() as session:
        stored = await session.execute(select(OperationRunItem.tenant_id, OperationRunItem.updated_count))
        counts = {row.tenant_id: row.updated_count for row in stored}
    assert counts == {acme.id: wrong[acme.id], globex.id: wrong[globex.id], other.id: 0}
    assert await days(plane, other) == before
    assert None not in await days(plane, acme) | await days(plane, globex)


async def test_no_statement_takes_more_tenants_than_it_may(
    plane: Plane, operator: Actor, tenants: list[Tenant], runbook: RepairRunbook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_once, "TOGETHER", 2)
    held = list((await claim(plane, operator)).values())
    at_work = AtOnce(db=plane.db, runbook=runbook, pace=Pace(plane.settings, bundled=True), lease_s=20)
    carried = await at_work.together(held)
    assert ([lease.key for lease in carried.whole], carried.waiting) == ([x.key for x in held[:2]], held[2:])


async def test_a_large_tenant_is_repaired_bite_by_bite_in_one_chunk(
    plane: Plane, tenants: list[Tenant], runbook: RepairRunbook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "BITE", 4)
    await add(plane, tenants[0], wrong=10, right=0)
    async with plane.db.transaction() as tx:
        first = await runbook.apply(tx.session, tenants[0].id, None, 9)
        second = await runbook.apply(tx.session, tenants[0].id, first.cursor, 9)
    assert [(chunk.updated, chunk.took, chunk.proven) for chunk in (first, second)] == [(9, 9, False), (1, 1, True)]


async def test_an_answer_that_would_leave_rows_uncounted_is_not_taken(
    plane: Plane, operator: Actor, tenants: list[Tenant], runbook: RepairRunbook, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def begin_all(
        _self: RepairRunbook, session: AsyncSession, given: Sequence[uuid.UUID], _limit: int
    ) -> list[Chunk]:
        return [await runbook.apply(session, tenant, None, 1) for tenant in given]

    monkeypatch.setattr(type(runbook), "apply_together", begin_all)
    for tenant in tenants:
        await add(plane, tenant, wrong=3, right=0)
    done = await support.show(plane, await support.finished_run(plane, operator, BY_TITLE))
    assert (done.outcome, done.summary_counts["updated"]) == ("succeeded", 9)


async def test_who_breaks_the_common_statement_fails_alone_and_the_others_are_done(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    for tenant in tenants:
        await add(plane, tenant, wrong=3, right=1, title="x" if tenant.external_id == "globex" else "7")
    done = await support.show(plane, await support.finished_run(plane, operator, BY_TITLE))
    assert [(failure.tenant_external_id, failure.code) for failure in done.failures] == [("globex", "database_error")]
    assert [await days(plane, tenant) for tenant in tenants] == [{7: 3, 30: 1}, {None: 3, 30: 1}, {7: 3, 30: 1}]


async def test_rows_that_stay_wrong_are_found_out_beside_others_as_well(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    for tenant in tenants:
        await add(plane, tenant, wrong=2, right=0, title="0" if tenant.external_id == "globex" else "7")
    done = await support.show(plane, await support.finished_run(plane, operator, BY_TITLE))
    assert [(failure.tenant_external_id, failure.code) for failure in done.failures] == [("globex", "not_converging")]
    async with plane.db.reading() as session:
        updated = await session.scalars(select(OperationRunItem.updated_count).order_by(OperationRunItem.ordinal))
        assert [count for count in updated if count == 2] == [2, 2]


@pytest.mark.parametrize("key", [BY_TITLE, "test.repairs.by_title_and_hand"])
async def test_the_only_wrong_row_that_somebody_else_just_changed_is_repaired_all_the_same(
    plane: Plane, operator: Actor, tenants: list[Tenant], key: str
) -> None:
    await add(plane, tenants[0], wrong=1, right=0)
    run_id = (await support.start(plane, operator, key)).run.id
    async with plane.db.transaction() as other:
        await other.session.execute(text("UPDATE findings SET severity = 'low'"))
        drained = asyncio.create_task(support.drain(plane, run_id))
        await support.until_somebody_waits(plane)
    await drained
    assert await days(plane, tenants[0]) == {7: 1}
    assert (await support.show(plane, run_id)).summary_counts["updated"] == 1


async def test_the_statement_compares_no_row_with_every_other_and_reads_no_more_than_it_needs(
    plane: Plane, operator: Actor, tenants: list[Tenant], runbook: RepairRunbook
) -> None:
    for tenant in tenants:
        await support.add_findings(plane, tenant, 900, title="7", sla_days=None)
    nodes = await explained(plane, runbook, list((await claim(plane, operator)).values()), limit=300)
    assert sum(node.get("Rows Removed by Join Filter", 0) for node in nodes) < 50  # of tenants with each other
    [read] = [node for node in nodes if node["Node Type"].startswith("Index") and "findings.tenant_id" in str(node)]
    assert read["Actual Rows"] * read["Actual Loops"] == 300


async def explained(plane: Plane, runbook: RepairRunbook, held: Sequence[Lease], limit: int) -> list[dict[str, Any]]:
    """Every step of how PostgreSQL really runs the statement."""
    given = leases.parameters(held) | {
        "limit": limit, "window": limit * LOOK, "unsure": False, "lease": timedelta(seconds=20),
    }  # fmt: skip
    async with plane.db.transaction() as tx:
        for statement in NEVER_ANALYZED:
            await tx.session.execute(text(statement))
        connection = await tx.session.connection()
        first = at_once.statements_of(runbook.statements).first
        told = await connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, VERBOSE, FORMAT JSON) {first.sql}", tuple(first.arguments(given))
        )
        found = told.scalar_one()
    waiting = [(json.loads(found) if isinstance(found, str) else found)[0]["Plan"]]
    nodes: list[dict[str, Any]] = []
    while waiting:
        nodes.append(waiting.pop())
        waiting += nodes[-1].pop("Plans", [])
    return nodes


NEVER_ANALYZED = (  # though an autovacuum may have come by
    "DELETE FROM pg_statistic WHERE starelid = 'findings'::regclass",
    "UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE oid = 'findings'::regclass",
)


async def test_rows_of_a_partitioned_table_are_counted_for_the_tenant_they_belong_to(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    runbook = registry.find("test.repairs.partitioned")
    assert isinstance(runbook, RepairRunbook)
    async with plane.db.transaction() as tx:
        for statement in PARTITIONED:
            await tx.session.execute(text(statement))
        # ids in turn: the first row of one tenant has the place that the other's first has in the next partition
        for number in range(60):
            await tx.session.execute(
                text("INSERT INTO parts VALUES (:id, :tenant, true)"), {"id": number, "tenant": tenants[number % 2].id}
            )
    held = await claim(plane, operator)
    try:
        whole = await together(plane, runbook, [held[tenants[0].id], held[tenants[1].id]], limit=7)
    finally:
        async with plane.db.transaction() as tx:
            await tx.session.execute(text("DROP TABLE parts"))
    assert [(lease.updated, lease.passes) for lease in whole] == [(30, 1), (30, 1)]


PARTITIONED = (
    "CREATE TABLE parts (id int PRIMARY KEY, tenant_id uuid NOT NULL, broken boolean NOT NULL) PARTITION BY HASH (id)",
    *(f"CREATE TABLE parts_{n} PARTITION OF parts FOR VALUES WITH (MODULUS 3, REMAINDER {n})" for n in range(3)),
)


def broken_things(name: str) -> RepairRunbook:
    """A repair of a table of this name."""

    class Tables(DeclarativeBase):
        pass

    class Thing(Tables):
        __tablename__ = name
        id: Mapped[int] = mapped_column(primary_key=True)
        tenant_id: Mapped[uuid.UUID]
        broken: Mapped[bool]

    class Mend(RepairRunbook):
        key, title, capability, confirmation_phrase = "test.repairs.named", "Named", "c", "MEND"
        table = Thing

        def wrong(self) -> ColumnElement[bool]:
            return Thing.broken.is_(True)

        def right(self) -> Mapping[InstrumentedAttribute[Any], Any]:
            return {Thing.broken: False}

    return Mend()


@pytest.mark.parametrize(
    "name", ["odd 'thing\"", "fenced", "given", "held", "answer", "looked_at", "rows", "of_tenant"]
)
async def test_a_table_may_have_any_name(plane: Plane, operator: Actor, tenants: list[Tenant], name: str) -> None:
    repair = broken_things(name)
    tables, thing = repair.table.metadata, repair.table
    async with plane.db.transaction() as tx:
        connection = await tx.session.connection()
        await connection.run_sync(tables.create_all)
        tx.session.add_all(thing(id=n, tenant_id=tenants[0].id, broken=n % 3 > 0) for n in range(30))
    try:
        held = await claim(plane, operator)
        [whole] = await together(plane, repair, [held[tenants[0].id]], limit=7)
    finally:
        async with plane.db.transaction() as tx:
            connection = await tx.session.connection()
            await connection.run_sync(tables.drop_all)
    assert (whole.updated, whole.passes) == (20, 1)


@pytest.mark.parametrize(("key", "waits"), [("test.effects.commits", "off"), ("test.effects.commits_alone", "on")])
async def test_only_what_acts_outside_of_the_database_waits_for_the_disk(
    plane: Plane, operator: Actor, tenants: list[Tenant], key: str, waits: str
) -> None:
    async with support.durable(plane):
        await support.finished_run(plane, operator, key)
    seen: list[str] = type(registry.find(key)).seen  # type: ignore[attr-defined]
    assert set(seen) == {waits}


async def test_a_repair_with_a_part_by_hand_has_a_session_for_it(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    by_hand = registry.find("test.repairs.by_title_and_hand")
    assert not at_once.fits(by_hand)
    assert at_once.fits(registry.find(BY_TITLE))
    by_hand.sessions.clear()  # type: ignore[attr-defined]
    await support.add_findings(plane, tenants[0], 1, title="0", sla_days=None)
    await support.finished_run(plane, operator, by_hand.key)
    assert by_hand.sessions == {AsyncSession}  # type: ignore[attr-defined]


def test_a_worker_puts_statements_together_before_any_run_though_another_runbook_is_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken, whole = type(registry.find(BY_TITLE))(), type(registry.find(BY_TITLE))()
    assert isinstance(whole, RepairRunbook)
    monkeypatch.setattr(broken, "wrong", lambda: 1 / 0)
    monkeypatch.setattr(registry, "every", lambda: [broken, whole])
    supervisor.prepare()
    assert {"first", "following"} <= vars(at_once.statements_of(whole.statements)).keys()
