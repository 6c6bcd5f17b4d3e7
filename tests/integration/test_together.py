"""Several small tenants are repaired in one statement, as if each had been repaired by itself."""

import random
import uuid

import pytest
from sqlalchemy import func, select, text

from opsplane.auth.actors import Actor
from opsplane.findings.models import Finding
from opsplane.runbooks import base, registry
from opsplane.runbooks.base import RepairRunbook
from opsplane.runbooks.chunk import Chunk
from opsplane.runbooks.service import Plane
from opsplane.runs.models import OperationRunItem
from opsplane.tenants.models import Tenant
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


async def together(plane: Plane, runbook: RepairRunbook, tenants: list[uuid.UUID], limit: int) -> list[list[Chunk]]:
    """The chunks of each tenant, as a worker would make them."""
    chunks: list[list[Chunk]] = []
    while len(chunks) < len(tenants):
        async with plane.db.transaction() as tx:
            of_first = await runbook.apply_together(tx.session, tenants[len(chunks) :], limit)
        assert of_first
        assert sum(chunk.updated for chunk in of_first) <= limit
        assert all(chunk.cursor is None for chunk in of_first[:-1])
        chunks += [[chunk] for chunk in of_first]
        while chunks[-1][-1].cursor is not None:
            async with plane.db.transaction() as tx:
                tenant = tenants[len(chunks) - 1]
                chunks[-1].append(await runbook.apply(tx.session, tenant, chunks[-1][-1].cursor, limit))
    return chunks


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_the_limit_each_tenant_is_repaired_once_and_nobody_else(
    plane: Plane, tenants: list[Tenant], runbook: RepairRunbook, seed: int
) -> None:
    random.seed(seed)
    acme, other, globex = tenants
    wrong = {tenant.id: random.choice([0, 1, 3, 12]) for tenant in tenants}
    for tenant in tenants:
        await add(plane, tenant, wrong=wrong[tenant.id], right=random.choice([0, 2, 30]))
    given = random.sample([acme.id, globex.id], 2)
    before = await days(plane, other)
    chunks = await together(plane, runbook, given, limit=random.randint(1, 8))
    for tenant_id, of_tenant in zip(given, chunks, strict=True):
        assert sum(chunk.updated for chunk in of_tenant) == wrong[tenant_id]
        assert of_tenant[-1].proven
    assert await days(plane, other) == before
    assert None not in await days(plane, acme) | await days(plane, globex)


async def test_no_statement_takes_more_tenants_than_it_may(
    plane: Plane, tenants: list[Tenant], runbook: RepairRunbook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "TOGETHER", 2)
    async with plane.db.transaction() as tx:
        assert len(await runbook.apply_together(tx.session, [tenant.id for tenant in tenants], 100)) == 2


async def test_a_tenant_without_rows_is_done(plane: Plane, tenants: list[Tenant], runbook: RepairRunbook) -> None:
    async with plane.db.transaction() as tx:
        done = await runbook.apply_together(tx.session, [tenant.id for tenant in tenants], 100)
    assert [(chunk.updated, chunk.cursor, chunk.proven) for chunk in done] == 3 * [(0, None, True)]


async def test_a_large_tenant_is_repaired_bite_by_bite_in_one_chunk(
    plane: Plane, tenants: list[Tenant], runbook: RepairRunbook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "BITE", 4)
    await add(plane, tenants[0], wrong=10, right=0)
    async with plane.db.transaction() as tx:
        first = await runbook.apply(tx.session, tenants[0].id, None, 9)
        second = await runbook.apply(tx.session, tenants[0].id, first.cursor, 9)
    assert [(chunk.updated, chunk.took, chunk.proven) for chunk in (first, second)] == [(9, 9, False), (1, 1, True)]


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
        assert [updated for updated in updated if updated == 2] == [2, 2]


async def test_a_tenant_that_is_begun_and_needs_more_goes_on_in_the_same_transaction(
    plane: Plane, operator: Actor, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "BITE", 4)
    for tenant in tenants:
        await add(plane, tenant, wrong=6, right=0)
    await support.finished_run(plane, operator, BY_TITLE)
    async with plane.db.reading() as session:
        assert await session.scalar(text("SELECT count(DISTINCT xmin::text) FROM findings")) == 1
