"""The admin plane as a customer's people see it, behind a stand-in for its gate that says who asks."""

import json
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from sqlalchemy import insert, select, text

from opsplane import data
from opsplane.api import admin, openapi
from opsplane.api.deps import encode_cursor
from opsplane.api.rights import TenantRight
from opsplane.auth import members, roles
from opsplane.auth.models import TenantUser
from opsplane.auth.roles import Role, TenantCapability
from opsplane.db import new_id
from opsplane.findings.models import Finding
from opsplane.runbooks.scopes import Scope, ScopeKind
from opsplane.runbooks.service import Plane
from opsplane.runs import types
from opsplane.runs.models import OperationRun, OperationRunFailure
from opsplane.runs.types import OperationType
from opsplane.tenants import newest, universe
from opsplane.tenants.models import PLATFORM_TENANT, Tenant
from tests import support

Client = httpx.AsyncClient

SYNC = OperationType(key="inventory.sync", label="Inventory sync", capability=TenantCapability.OPERATIONS_VIEW)
RESTORE = OperationType(key="restore", label="Restore", capability=TenantCapability.OPERATIONS_RESTRICTED)
GONE = "gone.type"
MEMBERSHIPS = ("none", "other tenant", "tenant", "workspace")


@pytest.fixture(autouse=True)
def _operation_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(types, "_types", {operation.key: operation for operation in (SYNC, RESTORE)})


class Doors:
    """Clients of the admin plane, each of one tenant user; the gate's part is to load the member."""

    def __init__(self, plane: Plane, clients: AsyncExitStack) -> None:
        self.plane, self._clients = plane, clients

    async def open(self, role: Role, *tenants: Tenant | None, plane: Plane | None = None) -> Client:
        """A client of a new user with this role in these tenants; None is the workspace."""
        async with self.plane.db.transaction() as tx:
            user = await members.create(tx.session, f"u{new_id()}@acme.test")
            workspace_id = await universe.workspace_id(tx.session)
            for tenant in tenants:
                await members.grant(tx.session, user, role, workspace_id=workspace_id, tenant=tenant)
        return await self._client(plane or self.plane, user)

    async def _client(self, plane: Plane, user: TenantUser) -> Client:
        built = admin.build()

        async def gate(scope: Any, receive: Any, send: Any) -> None:
            async with plane.db.reading() as session:
                member = await members.load(session, user.id)
            scope["state"] = {"plane": plane, "member": member}
            await built(scope, receive, send)

        transport = httpx.ASGITransport(gate, raise_app_exceptions=False)
        return await self._clients.enter_async_context(Client(transport=transport, base_url="http://ops.test"))


@pytest.fixture
async def doors(plane: Plane) -> AsyncIterator[Doors]:
    async with AsyncExitStack() as clients:
        yield Doors(plane, clients)


async def add_run(plane: Plane, type_: str, tenant: Tenant | None, *, in_plane: str = "admin", **values: Any) -> str:
    async with plane.db.transaction() as tx:
        workspace_id = await universe.workspace_id(tx.session)
        kind = ScopeKind.SINGLE_TENANT if tenant else ScopeKind.ALL_TENANTS
        scope = Scope(workspace_id=workspace_id, kind=kind, tenant_id=tenant.id if tenant else None)
        run = OperationRun(**{
            "workspace_id": workspace_id, "type": type_, "runbook_version": 1, "plane": in_plane,
            "status": "completed", "outcome": "succeeded", "completed_at": datetime.now(UTC),
            "scope_kind": kind, "tenant_id": scope.tenant_id, "tenant_span": scope.span, "lock_group": type_,
            "source": "api", "initiator_kind": "platform_user", "initiator_display": "op@ops.test",
            "reason_code": "SUPPORT", "reason_text": "between us", "summary_counts": {"total": 1}, **values,
        })  # fmt: skip
        tx.session.add(run)
        await tx.session.flush()
        return str(run.id)


async def ids(plane: Plane, *tenants: Tenant) -> list[str]:
    async with plane.db.reading() as session:
        found = select(Finding.id).where(Finding.tenant_id.in_([tenant.id for tenant in tenants]))
        return [str(id_) for id_ in await session.scalars(found.order_by(Finding.id.desc()))]


async def pages(client: Client, url: str, **params: str) -> AsyncIterator[list[dict[str, Any]]]:
    cursor: str | None = None
    while True:
        answer = await client.get(url, params=params | ({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200, answer.text
        yield answer.json()["items"]
        if (cursor := answer.json()["next_cursor"]) is None:
            return


async def listed(client: Client, url: str, **params: str) -> list[str]:
    return [row["id"] async for page in pages(client, url, **params) for row in page]


async def the_platform(plane: Plane) -> Tenant:
    async with plane.db.reading() as session:
        return (await session.scalars(select(Tenant).where(Tenant.external_id == PLATFORM_TENANT))).one()


def expected(role: Role, membership: str) -> dict[str, int]:
    if membership in {"none", "other tenant"}:
        return dict.fromkeys(("findings", "finding", "operations", "sync", "restore", "gone", "all", "system"), 404)
    strong = 200 if role in {Role.OWNER, Role.MANAGER} else 403
    everywhere = 200 if membership == "workspace" else 404
    return {
        "findings": 200, "finding": 200, "operations": 200, "sync": 200,
        "restore": strong, "gone": strong, "all": everywhere, "system": 404,
    }  # fmt: skip


@pytest.mark.parametrize("membership", MEMBERSHIPS)
@pytest.mark.parametrize("role", Role)
async def test_who_may_see_what(plane: Plane, doors: Doors, tenants: list[Tenant], role: Role, membership: str) -> None:
    acme, globex, _ = tenants
    await support.add_findings(plane, acme, 1)
    runs = {
        "sync": await add_run(plane, SYNC.key, acme),
        "restore": await add_run(plane, RESTORE.key, acme),
        "gone": await add_run(plane, GONE, acme),
        "all": await add_run(plane, SYNC.key, None),
        "system": await add_run(plane, support.BACKFILL, acme, in_plane="system"),
    }
    held: dict[str, list[Tenant | None]] = {"none": [], "other tenant": [globex], "tenant": [acme], "workspace": [None]}
    client = await doors.open(role, *held[membership])
    urls = {
        "findings": "/findings?tenant=acme",
        "finding": f"/findings/{(await ids(plane, acme))[0]}",
        "operations": f"/operations?tenant={acme.id}",
    } | {name: f"/operations/{run_id}" for name, run_id in runs.items()}

    answers = {name: await client.get(url) for name, url in urls.items()}
    assert {name: answer.status_code for name, answer in answers.items()} == expected(role, membership)

    absent = (await client.get(f"/findings/{uuid.uuid4()}")).content
    for name, answer in answers.items():
        if answer.status_code == 404:
            assert answer.content == absent, name
            assert answer.headers["content-type"] == "application/problem+json"
        if answer.status_code == 403:
            assert (answer.json()["code"], answer.json()["capability"]) == (
                "missing_capability", "tenant.operations.restricted",
            )  # fmt: skip
    if membership != "none":
        shown = [runs[name] for name in reversed(runs) if answers[name].status_code == 200]
        assert await listed(client, "/operations") == shown


@pytest.mark.parametrize("url", ["/findings", "/operations"])
async def test_a_member_of_nothing_gets_404_and_one_whose_role_lacks_the_right_403(
    doors: Doors, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    assert (await (await doors.open(Role.OWNER)).get(url)).status_code == 404
    monkeypatch.setitem(roles._CAPABILITIES, Role.READONLY, frozenset())
    client = await doors.open(Role.READONLY, tenants[0])
    refused = [await client.get(path) for path in (url, f"{url}?tenant=acme", f"{url}/{new_id()}")]
    assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(403, "missing_capability")}
    assert refused[0].json()["capability"] == f"tenant.{url[1:]}.view"


async def test_the_view_of_operations_is_needed_besides_the_types_own(
    plane: Plane, doors: Doors, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner somewhere passes the route's door; the run's own tenant decides."""
    run_id = await add_run(plane, RESTORE.key, tenants[0])
    client = await doors.open(Role.OPERATOR, tenants[0])
    monkeypatch.setitem(roles._CAPABILITIES, Role.OPERATOR, frozenset({TenantCapability.OPERATIONS_RESTRICTED}))
    for url in (f"/operations/{run_id}", "/operations?tenant=acme"):
        assert (await client.get(url)).json()["capability"] == "tenant.operations.view"


async def test_findings_of_others_are_on_no_page_and_under_no_filter(
    plane: Plane, doors: Doors, tenants: list[Tenant]
) -> None:
    acme, globex, initech = tenants
    for tenant in (globex, acme, initech, acme, globex, await the_platform(plane)):
        await support.add_findings(plane, tenant, 3, title="secret", status="closed")
    some, everywhere = await doors.open(Role.OWNER, acme, initech), await doors.open(Role.OWNER, None)
    mine, all_ = await ids(plane, acme, initech), await ids(plane, *tenants)
    filters: list[dict[str, str]] = [
        {}, {"q": "secret"}, {"status": "closed"}, {"severity": "high"}, {"open": "false"}, {"overdue": "false"},
        {"limit": "2"}, {"q": "ecre", "limit": "1"}, {"tenant": "", "q": ""}, {"cursor": encode_cursor(uuid.UUID(int=2**128 - 1))},
    ]  # fmt: skip
    for params in filters:
        assert await listed(some, "/findings", **params) == mine, params
        assert await listed(everywhere, "/findings", **params) == all_, params
    for tenant in (globex, await the_platform(plane)):
        for finding_id in await ids(plane, tenant):
            assert (await some.get(f"/findings/{finding_id}")).status_code == 404
    for name in ("globex", str(globex.id), "platform", "nobody", str(uuid.uuid4())):
        answer = await some.get("/findings", params={"tenant": name})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert (await everywhere.get("/findings?tenant=platform")).status_code == 404
    for finding_id in await ids(plane, await the_platform(plane)):
        assert (await everywhere.get(f"/findings/{finding_id}")).status_code == 404


async def test_operations_of_others_are_on_no_page(plane: Plane, doors: Doors, tenants: list[Tenant]) -> None:
    acme, globex, initech = tenants
    for tenant in (acme, globex, await the_platform(plane), None):
        await add_run(plane, support.BACKFILL, tenant, in_plane="system")
    mine = [await add_run(plane, key, tenant) for tenant in (acme, initech) for key in (SYNC.key, RESTORE.key, GONE)]
    others = [await add_run(plane, SYNC.key, tenant) for tenant in (globex, None)]
    hidden = await add_run(plane, SYNC.key, await the_platform(plane))
    some, everywhere = await doors.open(Role.OWNER, acme, initech), await doors.open(Role.OWNER, None)
    for params in ({}, {"limit": "1"}, {"status": "completed"}, {"outcome": "succeeded"}):
        assert await listed(some, "/operations", **params) == mine[::-1]
        assert await listed(everywhere, "/operations", **params) == [*others[::-1], *mine[::-1]]
    assert await listed(some, "/operations", type=support.BACKFILL) == []
    assert await listed(some, "/operations", type=RESTORE.key, tenant="acme") == [mine[1]]
    for client in (some, everywhere):
        assert (await client.get(f"/operations/{hidden}")).status_code == 404


async def test_a_weak_role_in_one_tenant_gains_nothing_from_a_strong_one_elsewhere(
    plane: Plane, doors: Doors, tenants: list[Tenant]
) -> None:
    acme, globex, _ = tenants
    hidden, shown = [await add_run(plane, RESTORE.key, tenant) for tenant in (acme, globex)]
    client = await doors.open(Role.READONLY, acme)
    async with plane.db.transaction() as tx:
        [user] = await tx.session.scalars(select(TenantUser))
        await members.grant(tx.session, user, Role.OWNER, workspace_id=globex.workspace_id, tenant=globex)
    assert await listed(client, "/operations") == [shown]
    assert (await client.get(f"/operations/{hidden}")).status_code == 403


async def test_a_membership_taken_back_ends_with_the_next_request(
    plane: Plane, doors: Doors, tenants: list[Tenant]
) -> None:
    client = await doors.open(Role.OWNER, tenants[0])
    assert (await client.get("/findings")).status_code == 200
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("DELETE FROM memberships"))
    assert (await client.get("/findings")).status_code == 404


@pytest.mark.parametrize("membership", ["tenant", "workspace"])
async def test_every_row_is_on_one_page_while_others_come(
    plane: Plane, doors: Doors, tenants: list[Tenant], membership: str
) -> None:
    for _ in range(3):
        for tenant in tenants:
            await support.add_findings(plane, tenant, 4)
    client = await doors.open(Role.READONLY, *([None] if membership == "workspace" else tenants))
    before = await ids(plane, *tenants)
    found: list[str] = []
    async for page in pages(client, "/findings", limit="5"):
        found += [row["id"] for row in page]
        await support.add_findings(plane, tenants[0], 2)
    assert found == before


async def test_filters_narrow(plane: Plane, doors: Doors, tenants: list[Tenant]) -> None:
    past, future = datetime.now(UTC) - timedelta(days=1), datetime.now(UTC) + timedelta(days=1)
    cases: dict[str, dict[str, Any]] = {
        "late": {"status": "triaged", "due_at": past, "severity": "low"},
        "in time": {"status": "acknowledged", "due_at": future},
        "no date": {"status": "new", "external_ref": "CVE-2024-1"},
        "done": {"status": "resolved", "due_at": past},
    }
    for title, values in cases.items():
        await support.add_findings(plane, tenants[0], 1, title=title, **values)
    client = await doors.open(Role.READONLY, tenants[0])

    async def titles(**params: str) -> set[str]:
        return {row["title"] async for page in pages(client, "/findings", **params) for row in page}

    assert await titles() == set(cases)
    assert await titles(open="true") == {"late", "in time", "no date"}
    assert await titles(open="false") == {"done"}
    assert await titles(overdue="true") == {"late"}
    assert await titles(overdue="false") == {"in time", "no date", "done"}
    assert await titles(status="acknowledged") == {"in time"}
    assert await titles(severity="low", tenant=str(tenants[0].id)) == {"late"}
    assert await titles(q="IN TI") == {"in time"}
    assert await titles(q="cve-2024") == {"no date"}
    misspelt = await client.get("/findings", params={"stauts": "new"})
    assert (misspelt.status_code, misspelt.json()["errors"][0]["pointer"]) == (422, "/query/stauts")


async def test_wildcards_in_a_search_are_plain_characters(plane: Plane, doors: Doors, tenants: list[Tenant]) -> None:
    for title in ("100% sure", "snake_case", "back\\slash", "plain"):
        await support.add_findings(plane, tenants[0], 1, title=title)
    client = await doors.open(Role.READONLY, tenants[0])
    meant = {"%": ["100% sure"], "_": ["snake_case"], "\\": ["back\\slash"], "pla_n": [], "p%n": []}
    for q, titles in meant.items():
        found = (await client.get("/findings", params={"q": q})).json()["items"]
        assert [row["title"] for row in found] == titles, q


async def test_a_finding_shows_its_fields_and_no_more(plane: Plane, doors: Doors, tenants: list[Tenant]) -> None:
    await support.add_findings(plane, tenants[0], 1, status="acknowledged", evidence={"path": "/etc"})
    client = await doors.open(Role.READONLY, tenants[0])
    [row] = (await client.get("/findings")).json()["items"]
    assert row == (await client.get(f"/findings/{row['id']}")).json()
    assert set(row) == {
        "id", "tenant_id", "tenant_external_id", "external_ref", "title", "severity", "status", "first_seen_at",
        "last_seen_at", "times_seen", "due_at", "triaged_at", "resolved_at", "closed_at", "created_at",
    }  # fmt: skip
    assert (row["status"], row["tenant_external_id"], row["times_seen"]) == ("acknowledged", "acme", None)


async def test_an_operation_shows_its_course_and_nothing_of_who_or_why(
    plane: Plane, doors: Doors, tenants: list[Tenant]
) -> None:
    run_id = await add_run(plane, SYNC.key, tenants[0], outcome="partially_succeeded")
    whole = await add_run(plane, SYNC.key, tenants[0], outcome="failed", failure_code="timed_out", failure_message="x")
    live = await add_run(plane, SYNC.key, tenants[1], status="running", outcome="pending", completed_at=None)
    async with plane.db.transaction() as tx:
        rows = [{"item_key": key, "code": code} for key, code in (("a", "lost"), ("b", "lost"), ("c", "bad_row"))]
        common = {"run_id": uuid.UUID(run_id), "message": "host db-7 refused"}
        await tx.session.execute(insert(OperationRunFailure), [{**common, **row, "id": new_id()} for row in rows])
    client = await doors.open(Role.READONLY, *tenants)
    shown = (await client.get(f"/operations/{run_id}")).json()
    assert shown.pop("created_at")
    assert shown.pop("completed_at")
    assert shown == {
        "id": run_id, "type": SYNC.key, "type_label": "Inventory sync", "status": "completed",
        "outcome": "partially_succeeded", "tenant_id": str(tenants[0].id), "tenant_external_id": "acme",
        "summary_counts": {"total": 1}, "failures": {"count": 3, "codes": ["bad_row", "lost"]}, "started_at": None,
        "view_url": f"http://ops.test/admin/operations/{run_id}",
    }  # fmt: skip
    assert (await client.get(f"/operations/{whole}")).json()["failures"] == {"count": 1, "codes": ["timed_out"]}
    running = (await client.get(f"/operations/{live}")).json()
    assert (running["status"], running["summary_counts"]["total"]) == ("running", 0)


BAD = [
    "/findings?status=nonsense",
    "/findings?severity=HIGH",
    "/findings?open=perhaps",
    "/findings?limit=0",
    "/findings?limit=201",
    "/findings?limit=x",
    "/findings?cursor=%25%25",
    "/findings?cursor=" + encode_cursor("nothing"),
    "/findings?cursor=" + encode_cursor("\x00"),
    "/findings?cursor=" + "a" * 501,
    "/findings?q=%00",
    "/findings?q=" + "a" * 201,
    "/findings?tenant=%00",
    "/findings/nothing",
    "/findings/%00",
    "/operations?status=nonsense",
    "/operations?type=%00",
    "/operations?tenant=%00",
    "/operations?cursor=!",
    "/operations/nothing",
]


@pytest.mark.parametrize("url", BAD)
@pytest.mark.parametrize("membership", ["tenant", "workspace"])
async def test_odd_input_is_a_problem(doors: Doors, tenants: list[Tenant], membership: str, url: str) -> None:
    client = await doors.open(Role.OWNER, tenants[0] if membership == "tenant" else None)
    answer = await client.get(url)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


async def test_strange_text_finds_nothing(doors: Doors, tenants: list[Tenant]) -> None:
    client = await doors.open(Role.OWNER, tenants[0])
    for q in ("%ff", "%ED%A0%80", "'%3B--", "%F0%9F%92%A9", "%C2%80"):
        answer = await client.get(f"/findings?q={q}")
        assert (answer.status_code, answer.json()["items"]) == (200, [])


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_nothing_can_be_changed(doors: Doors, tenants: list[Tenant], method: str) -> None:
    client = await doors.open(Role.OWNER, None)
    for url in ("/findings", f"/findings/{new_id()}", "/operations", f"/operations/{new_id()}"):
        assert (await client.request(method, url, json={})).status_code == 404


def test_every_route_declares_a_right() -> None:
    routes = [route for route in admin.admin.routes if isinstance(route, APIRoute)]
    assert len(routes) == 4
    for route in routes:
        calls = [dependency.call for dependency in route.dependant.dependencies]
        assert any(isinstance(call, TenantRight) for call in calls), f"{route.path} declares no right"


FORBIDDEN = re.compile("backfill|maintenance|repair|runbook", re.IGNORECASE)


async def test_fr001_customers_notice_nothing_of_repairs(plane: Plane, doors: Doors, tenants: list[Tenant]) -> None:
    """T037: with the flag off, no role meets a word of it in any answer, header, contract or page."""
    await support.add_findings(plane, tenants[0], 3)
    system = await add_run(plane, support.BACKFILL, tenants[0], in_plane="system", reason_code="DATA_REPAIR")
    sync = await add_run(plane, SYNC.key, tenants[0])
    [finding, *_] = await ids(plane, tenants[0])
    urls = [
        "/findings", "/findings?tenant=acme&limit=1", "/findings?limit=0", f"/findings/{finding}", "/findings/x",
        "/findings?tenant=nobody", "/operations", f"/operations/{sync}", f"/operations/{system}", "/operations?type=x",
        "/ops/x", "/", "",
    ]  # fmt: skip
    for role in Role:
        for held in ([tenants[0]], [None], []):
            client = await doors.open(role, *held)
            for url in urls:
                for method in ("GET", "POST", "OPTIONS"):
                    answer = await client.request(method, url)
                    assert not FORBIDDEN.search(f"{answer.headers} {answer.text}"), f"{role} {method} {url}"
    assert not FORBIDDEN.search(openapi.rendered("admin"))
    files = [file for folder in ("templates", "static") for file in (data.ROOT / folder).rglob("*") if file.is_file()]
    for file in files:
        if "admin" in str(file.relative_to(data.ROOT)):
            assert not FORBIDDEN.search(file.name + file.read_text(encoding="utf-8")), file


@pytest.mark.parametrize("role", Role)
async def test_the_flag_hints_to_owners_and_managers_and_starts_nothing(
    plane: Plane, doors: Doors, tenants: list[Tenant], role: Role
) -> None:
    on = replace(plane, settings=plane.settings.model_copy(update={"allow_admin_maintenance_actions": True}))
    with_flag, without = [await doors.open(role, tenants[0], plane=which) for which in (on, plane)]
    seen = (await with_flag.get("/findings")).json()
    assert (await without.get("/findings")).json() == {"items": [], "next_cursor": None}
    if role in {Role.OWNER, Role.MANAGER}:
        hint = {
            "title": "Rebuild Findings Lifecycle",
            "runbook": support.BACKFILL,
            "url": "http://ops.test/system/ops/runbooks",
        }
        assert hint in seen["maintenance_actions"]
    else:
        assert set(seen) == {"items", "next_cursor"}
    for url in ("/ops/runbooks", f"/ops/runbooks/{support.BACKFILL}/start", f"/findings/{support.BACKFILL}"):
        assert (await with_flag.post(url, json={"confirmation": "BACKFILL"})).status_code == 404


async def test_a_member_of_one_small_tenant_does_not_walk_through_those_of_others(
    plane: Plane, tenants: list[Tenant]
) -> None:
    """The small tenant's rows are the oldest: by the primary key alone every other row would be met first."""
    await support.add_findings(plane, tenants[0], 20)
    await support.add_findings(plane, tenants[1], 20_000)
    who = members.Member(
        id=new_id(), email="", name="", workspace_roles={},
        roles={tenant.id: Role.READONLY for tenant in (tenants[0], tenants[2])},
    )  # fmt: skip
    query = newest.of_each(Finding, who.tenants_with(TenantCapability.FINDINGS_VIEW), before=None, limit=100)
    sql = query.compile(plane.db.engine, compile_kwargs={"literal_binds": True})
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("ANALYZE findings"))
        lines = await tx.session.scalars(text(f"EXPLAIN {sql}"))
        explained = "\n".join(lines)
    assert "ix_findings_tenant_id_id" in explained
    assert "pk_findings" not in explained
    assert "Seq Scan on findings" not in explained


def test_the_committed_contract_says_how_to_come_in() -> None:
    document = json.loads(openapi.rendered("admin"))
    assert document["servers"] == [{"url": "/admin"}]
    assert document["components"]["securitySchemes"]["session"]["name"] == "__Host-opsplane_admin"
    assert set(document["paths"]) == {
        "/findings",
        "/findings/{finding_id}",
        "/operations",
        "/operations/{operation_id}",
        "/login",
        "/logout",
        "/me",
    }
