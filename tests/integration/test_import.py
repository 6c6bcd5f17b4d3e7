"""Importing SARIF: everything, or nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from opsplane.auth.actors import Actor
from opsplane.errors import InvalidInput
from opsplane.findings import importer
from opsplane.findings.models import Finding
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from opsplane.tenants.universe import TenantNotAllowed
from tests import support


def result(number: int, **values: Any) -> dict[str, Any]:
    location = {"physicalLocation": {"artifactLocation": {"uri": f"src/{number}.py"}, "region": {"startLine": 1}}}
    return {"ruleId": f"R{number % 7}", "message": {"text": "bad"}, "locations": [location], **values}


def report(tmp_path: Path, results: list[dict[str, Any]]) -> Path:
    path = tmp_path / "scan.sarif"
    run = {"tool": {"driver": {"name": "scanner"}}, "results": results}
    path.write_text(json.dumps({"version": "2.1.0", "runs": [run]}))
    return path


async def test_every_result_becomes_a_complete_finding(
    plane: Plane, operator: Actor, tenants: list[Tenant], tmp_path: Path
) -> None:
    path = report(tmp_path, [result(number, level="error") for number in range(1234)])
    done = await importer.import_sarif(plane.db, path, "acme", by=operator)
    assert (done.results, done.inserted, done.seen_again) == (1234, 1234, 0)
    assert await support.count(plane, Finding, Finding.tenant_id == tenants[0].id) == 1234
    assert await support.wrong_count(plane) == 0


async def test_importing_again_counts_and_reopens_instead_of_doubling(
    plane: Plane, operator: Actor, tenants: list[Tenant], tmp_path: Path
) -> None:
    path = report(tmp_path, [result(number) for number in range(3)])
    await importer.import_sarif(plane.db, path, "acme", by=operator)
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("UPDATE findings SET status = 'closed', closed_at = now()"))
    done = await importer.import_sarif(plane.db, path, "acme", by=operator)
    assert (done.inserted, done.seen_again) == (0, 3)
    async with plane.db.reading() as session:
        found = (await session.execute(select(Finding.status, Finding.times_seen))).all()
    assert {tuple(row) for row in found} == {("reopened", 2)}
    assert len(found) == 3
    assert await support.wrong_count(plane) == 0


async def test_one_bad_result_at_the_end_leaves_no_row(
    plane: Plane, operator: Actor, tenants: list[Tenant], tmp_path: Path
) -> None:
    path = report(tmp_path, [*(result(number) for number in range(1200)), {"ruleId": "R", "message": {"text": "x"}}])
    with pytest.raises(InvalidInput, match=r"scan\.sarif: runs\[0\]\.results\[1200\]"):
        await importer.import_sarif(plane.db, path, "acme", by=operator)
    assert await support.count(plane, Finding) == 0


async def test_a_truncated_file_leaves_no_row(
    plane: Plane, operator: Actor, tenants: list[Tenant], tmp_path: Path
) -> None:
    path = report(tmp_path, [result(number) for number in range(2000)])
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InvalidInput, match=r"scan\.sarif"):
        await importer.import_sarif(plane.db, path, "acme", by=operator)
    assert await support.count(plane, Finding) == 0


@pytest.mark.parametrize("tenant", ["platform", "nobody"])
async def test_an_excluded_tenant_gets_no_findings(
    plane: Plane, operator: Actor, tenants: list[Tenant], tmp_path: Path, tenant: str
) -> None:
    with pytest.raises(TenantNotAllowed):
        await importer.import_sarif(plane.db, report(tmp_path, [result(1)]), tenant, by=operator)
    assert await support.count(plane, Finding) == 0
