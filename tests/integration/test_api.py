"""The system API as automation sees it: over HTTP, with a token."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from opsplane import app, data
from opsplane.api import openapi
from opsplane.auth import tokens, users
from opsplane.auth.actors import Actor
from opsplane.db import Database
from opsplane.queue import Queue
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import support
from tests.support import BACKFILL
from tests.web import Doors

Client = httpx.AsyncClient


async def token(plane: Plane, *capabilities: str) -> str:
    async with plane.db.transaction() as tx:
        user = await users.create(tx.session, f"u{id(capabilities)}-{len(capabilities)}@ops.test")
        await users.grant(tx.session, user, frozenset(capabilities))
        return (
            await tokens.mint(tx.session, user, name="t", capabilities=frozenset(capabilities), days=1, by=somebody())
        ).secret


@pytest.fixture
async def anonymous(doors: Doors) -> Client:
    return doors.client()


@pytest.fixture
async def client(plane: Plane, anonymous: Client) -> Client:
    anonymous.headers["Authorization"] = f"Bearer {await token(plane, *registry.capabilities())}"
    return anonymous


def start_body(**values: Any) -> dict[str, Any]:
    return {"confirmation": "BACKFILL", "reason": {"code": "DATA_REPAIR", "text": "a test"}, **values}


async def test_preflight_start_and_run_over_rest(client: Client, plane: Plane, tenants: list[Tenant]) -> None:
    await support.add_findings(plane, tenants[0], 120)
    looked = await client.post(f"/system/ops/runbooks/{BACKFILL}/preflight", json={"scope": {"kind": "all_tenants"}})
    assert looked.status_code == 200
    seen = looked.json()
    assert (seen["affected_count"], seen["total_count"], seen["estimated_tenants"]) == (120, 120, 1)
    assert (seen["reason_required"], seen["confirmation_phrase"], seen["can_start"]) == (True, "BACKFILL", True)

    body = start_body(preflight_id=seen["preflight_id"])
    started = await client.post(f"/system/ops/runbooks/{BACKFILL}/start", json=body)
    assert started.status_code == 202
    run = started.json()
    assert started.headers["Location"] == f"/system/ops/runs/{run['id']}"
    assert (run["status"], run["source"], run["actor"]["kind"]) == ("queued", "api", "api_token")

    held = await client.post(f"/system/ops/runbooks/{BACKFILL}/start", json=start_body())
    assert (held.status_code, held.json()["code"], held.json()["active_run_id"]) == (409, "scope_locked", run["id"])

    await support.drain(plane, run["id"])
    shown = (await client.get(started.headers["Location"])).json()
    assert (shown["status"], shown["outcome"], shown["context"]["updated_count"]) == ("completed", "succeeded", 120)
    assert [row["id"] for row in (await client.get("/system/ops/runs")).json()["items"]] == [run["id"]]
    [listed] = [row for row in (await client.get("/system/ops/runbooks")).json()["items"] if row["id"] == BACKFILL]
    assert listed["last_run"]["id"] == run["id"]


async def test_a_repeated_request_gets_the_same_bytes(client: Client, plane: Plane, tenants: list[Tenant]) -> None:
    await support.add_findings(plane, tenants[0], 1)
    headers = {"Idempotency-Key": "k"}
    url = f"/system/ops/runbooks/{BACKFILL}/start"
    first = await client.post(url, json=start_body(), headers=headers)
    await support.drain(plane, first.json()["id"])
    again = await client.post(url, json=start_body(), headers=headers)
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await client.post(url, json=start_body(force=True), headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


BAD_STARTS: list[tuple[dict[str, Any], int, str]] = [
    ({"scope": {"kind": "single_tenant", "tenant_id": "nobody"}}, 422, "tenant_not_allowed"),
    ({"scope": {"kind": "single_tenant", "tenant_id": "platform"}}, 422, "tenant_not_allowed"),
    (start_body(reason={"code": "DATA_REPAIR", "text": ""}), 422, "reason_required"),
    (start_body(reason={"code": "DATA_REPAIR", "text": "x" * 501}), 422, "reason_required"),
    ({"confirmation": "BACKFILL"}, 422, "reason_required"),
    (start_body(confirmation="nope"), 422, "confirmation_mismatch"),
    (start_body(surprise=1), 422, "invalid_request"),
    ({"scope": {"kind": "single_tenant", "tenant_id": "a\x00"}}, 422, "invalid_input"),
    ({"scope": {"kind": "single_tenant"}}, 422, "invalid_request"),
    (start_body(preflight_id="01900000-0000-7000-8000-000000000000"), 409, "preflight_stale"),
    (start_body(), 409, "nothing_to_do"),
]


@pytest.mark.parametrize(("body", "status", "code"), BAD_STARTS, ids=lambda value: str(value)[:50])
async def test_a_bad_start_is_a_problem_with_its_code(
    client: Client, tenants: list[Tenant], body: dict[str, Any], status: int, code: str
) -> None:
    answer = await client.post(f"/system/ops/runbooks/{BACKFILL}/start", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_paging_shows_every_row_once(client: Client, plane: Plane, tenants: list[Tenant]) -> None:
    for tenant in tenants:
        await support.start(plane, somebody(), tenant=tenant.external_id, force=True)
    run = (await support.start(plane, somebody(), "test.effects.plain")).run
    await support.drain(plane, run.id)
    for url in ("/system/ops/runs", f"/system/ops/runs/{run.id}/items", "/system/ops/tenants"):
        whole = (await client.get(url)).json()["items"]
        pages: list[Any] = []
        cursor: str | None = None
        while True:
            params = {"limit": "1"} | ({"cursor": cursor} if cursor else {})
            page = (await client.get(url, params=params)).json()
            pages += page["items"]
            if (cursor := page["next_cursor"]) is None:
                break
        assert pages == whole
        assert len(whole) >= 3
        assert (await client.get(url, params={"cursor": "%%%"})).json()["code"] == "invalid_input"


def somebody() -> Actor:
    return Actor.shell("tester")


async def test_runs_are_filtered(client: Client, plane: Plane, tenants: list[Tenant]) -> None:
    mine = (await support.start(plane, somebody(), tenant="acme", force=True)).run
    await support.start(plane, somebody(), "test.effects.plain", tenant="globex")
    for query in ("tenant=acme", f"tenant={tenants[0].id}", f"runbook={BACKFILL}"):
        found = (await client.get(f"/system/ops/runs?{query}")).json()["items"]
        assert [row["id"] for row in found] == [str(mine.id)], query
    assert len((await client.get("/system/ops/runs?status=queued&outcome=pending&source=cli")).json()["items"]) == 2
    assert (await client.get("/system/ops/runs?status=nonsense")).json()["code"] == "invalid_request"


async def test_the_platform_tenant_is_not_listed(client: Client, tenants: list[Tenant]) -> None:
    found = (await client.get("/system/ops/tenants")).json()["items"]
    assert [row["external_id"] for row in found] == ["acme", "globex", "initech"]
    assert [row["external_id"] for row in (await client.get("/system/ops/tenants?q=LOB")).json()["items"]] == ["globex"]
    assert (await client.get("/system/ops/tenants?q=%25")).json()["items"] == []


async def test_a_missing_capability_is_403_and_named(plane: Plane, anonymous: Client, tenants: list[Tenant]) -> None:
    secret = await token(plane, "platform.system.access", "platform.ops.view")
    anonymous.headers["Authorization"] = f"Bearer {secret}"
    assert (await anonymous.get("/system/ops/runs")).status_code == 200
    refused = await anonymous.post(f"/system/ops/runbooks/{BACKFILL}/start", json=start_body())
    assert (refused.status_code, refused.json()["capability"]) == (403, "platform.runbooks.run")


PATHS = [
    "/system/ops/runs",
    "/system/ops/runs/",
    "/system/nothing",
    "/system",
    f"/system/ops/runbooks/{BACKFILL}/start",
]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
async def test_without_a_token_every_path_is_the_same_404(anonymous: Client, method: str) -> None:
    answers = [await anonymous.request(method, path, content=b"{") for path in PATHS]
    assert {(answer.status_code, answer.content, str(answer.headers)) for answer in answers} == {
        (404, answers[0].content, str(answers[0].headers))
    }


async def test_a_bad_expired_or_revoked_token_is_401_everywhere(plane: Plane, anonymous: Client) -> None:
    good = await token(plane, "platform.system.access")
    wrong = [good[:-1] + ("0" if good[-1] != "0" else "1"), "ops_system_x", "", good.replace("ops_system", "ops_admin")]
    for secret in wrong:
        anonymous.headers["Authorization"] = f"Bearer {secret}"
        assert {(await anonymous.get(path)).status_code for path in PATHS} == {401}
    anonymous.headers["Authorization"] = f"Bearer {good}"
    assert (await anonymous.get("/system/nothing")).status_code == 404
    for ending in ("expires_at = now()", "revoked_at = now(), expires_at = now() + interval '1 day'"):
        async with plane.db.transaction() as tx:
            await tx.session.execute(text(f"UPDATE api_tokens SET {ending}"))
        assert (await anonymous.get("/system/nothing")).json()["code"] == "invalid_token"


async def test_disabling_the_owner_ends_the_token_on_the_next_request(plane: Plane, client: Client) -> None:
    assert (await client.get("/system/ops/runs")).status_code == 200
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("UPDATE platform_users SET disabled_at = now()"))
    assert (await client.get("/system/ops/runs")).status_code == 401


@pytest.mark.parametrize("plane_name", openapi.PLANES)
def test_the_committed_contract_is_the_generated_one(plane_name: str) -> None:
    committed = (data.ROOT / "openapi" / f"{plane_name}.json").read_text()
    assert committed == openapi.rendered(plane_name), "run `make openapi`"
    assert json.loads(committed)["openapi"].startswith("3.1")


async def test_health_tells_what_is_there(anonymous: Client) -> None:
    assert (await anonymous.get("/healthz")).json() == {"status": "ok"}
    ready = await anonymous.get("/readyz")
    assert (ready.status_code, ready.json()["database"], ready.json()["redis"]) == (200, "ok", "ok")
    assert "The operator control plane is up." in (await anonymous.get("/")).text


async def test_metrics_are_for_this_machine_and_for_tokens(doors: Doors, plane: Plane) -> None:
    for address in ("127.0.0.1", "::1"):
        local = await doors.client(address).get("/metrics")
        assert "opsplane_audit_events_spooled_total" in local.text
        proxied = await doors.client(address).get("/metrics", headers={"X-Forwarded-For": "192.0.2.1"})
        assert proxied.status_code == 404
    away = doors.client()
    assert (await away.get("/metrics")).json() == (await away.get("/nothing")).json()
    may, may_not = [await token(plane, "platform.system.access", *more) for more in (("platform.ops.view",), ())]
    assert (await away.get("/metrics", headers={"Authorization": f"Bearer {may}"})).status_code == 200
    assert (await away.get("/metrics", headers={"Authorization": f"Bearer {may_not}"})).status_code == 403
    assert (await away.get("/metrics", headers={"Authorization": "Bearer x"})).status_code == 401


async def test_a_database_that_is_not_there_is_503(servers: Any, settings: Any) -> None:
    lost = settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/none"})
    absent = Plane(Database(lost), Queue(lost), lost)
    built: Callable[..., Any] = app.build(lost)

    async def with_state(scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("state", {})["plane"] = absent
        await built(scope, receive, send)

    body = "ops_system_0123abcd_" + "x" * 43
    headers = {"Authorization": f"Bearer {body}{tokens.checksum_of(body)}"}
    async with Client(transport=httpx.ASGITransport(with_state), base_url="http://ops.test") as client:
        assert (await client.get("/readyz")).json()["database"] == "unreachable"
        answer = await client.get("/system/ops/runs", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")
    assert "Retry-After" in answer.headers
    assert "127.0.0.1" not in answer.text
    await absent.queue.close()
    await absent.db.close()
