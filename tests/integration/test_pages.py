"""Pages as the server paints them, before any script: the same numbers as the JSON of the same address."""

import re
import uuid
from dataclasses import replace

import pytest

from opsplane.auth.actors import Actor
from opsplane.auth.capabilities import Capability
from opsplane.auth.roles import Role
from opsplane.config import Environment
from opsplane.pages import assets, badges
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import support, web
from tests.web import HTML, Client, Doors

FORBIDDEN = re.compile("backfill|maintenance|repair|runbook", re.IGNORECASE)
ADMIN_PAGES = (
    "/admin/findings",
    "/admin/findings?q=x",
    "/admin/operations",
    "/admin/nothing",
    "/admin/findings?limit=0",
)


@pytest.fixture
async def operator_client(doors: Doors, plane: Plane) -> Client:
    """Somebody who may do everything."""
    return await doors.signed_in((await web.platform_user(plane, *registry.capabilities())).email)


async def shown(client: Client, url: str, status: int = 200) -> str:
    answer = await client.get(url, headers=HTML)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8"), answer.text
    return answer.text


async def test_a_run_is_painted_with_the_counts_of_its_json(
    operator_client: Client, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    for tenant in tenants:
        await support.add_findings(plane, tenant, 500)
    run_id = await support.finished_run(plane, operator)
    url = f"/system/ops/runs/{run_id}"
    run = (await operator_client.get(url)).json()
    page = await shown(operator_client, url)
    assert f'data-bind="summary_counts.updated">{run["summary_counts"]["updated"]:,}</a>' in page
    assert f'data-bind="progress.said">{run["progress"]["said"]}<' in page
    assert 'data-cells="sss"' in page
    for tenant in tenants:
        assert tenant.external_id in page
    assert url in await shown(operator_client, "/system/ops/runs?outcome=succeeded&since=24h&runbook=&tenant=")
    assert "No run matches" in await shown(operator_client, "/system/ops/runs?outcome=failed")
    assert str(run_id) in await shown(operator_client, f"/system/audit?subject_id={run_id}")


async def test_fr001_no_page_of_customers_speaks_of_repairs(plane: Plane, doors: Doors, tenants: list[Tenant]) -> None:
    await support.add_findings(plane, tenants[0], 3)
    owner = await web.tenant_user(plane, Role.OWNER, tenants[0])
    client = await doors.signed_in(owner.email, plane="admin")
    found = (await client.get("/admin/findings")).json()["items"][0]["id"]
    for url in (*ADMIN_PAGES, f"/admin/findings/{found}", f"/admin/operations/{uuid.uuid4()}"):
        answer = await client.get(url, headers=HTML)
        assert answer.headers["content-type"].startswith("text/html")
        assert not FORBIDDEN.search(answer.text), url
    assert not FORBIDDEN.search(await shown(doors.client(), "/admin/login"))


async def test_developers_get_links_into_the_system_plane_only_with_the_flag(
    plane: Plane, tenants: list[Tenant]
) -> None:
    with_flag = plane.settings.model_copy(update={"allow_admin_maintenance_actions": True})
    owner = await web.tenant_user(plane, Role.OWNER, tenants[0])
    async with web.doors(replace(plane, settings=with_flag)) as doors:
        page = await shown(await doors.signed_in(owner.email, plane="admin"), "/admin/findings")
    assert 'href="http://ops.test/system/ops/runbooks">Rebuild Findings Lifecycle</a>' in page


async def test_a_plane_leads_to_its_first_page_and_a_wrong_turn_to_all_of_them(operator_client: Client) -> None:
    for url in ("/system", "/system/"):
        answer = await operator_client.get(url, headers=HTML)
        assert (answer.status_code, answer.headers["location"]) == (303, "/system/ops/runbooks")
    for wrong in ("/system/nothing", "/system/ops/runs/nonsense"):
        page = await shown(operator_client, wrong, 404)
        assert "<h1>There is nothing here</h1>" in page
        assert 'href="/system/ops/runs"' in page


async def test_whoever_is_signed_in_is_not_asked_again(operator_client: Client) -> None:
    for wanted, found in {
        "/system/ops/runs?status=running": "/system/ops/runs?status=running",
        "//evil.test/system/": "/system/ops/runbooks",
        "/system/login?next=/system/login": "/system/ops/runbooks",
    }.items():
        answer = await operator_client.get("/system/login", params={"next": wanted}, headers=HTML)
        assert (answer.status_code, answer.headers["location"]) == (303, found)


async def test_whoever_must_enrol_does_it_on_the_login_page(plane: Plane) -> None:
    production = plane.settings.model_copy(update={"env": Environment.PRODUCTION})
    user = await web.platform_user(plane, *registry.capabilities())
    async with web.doors(plane, production) as doors:
        client = await doors.signed_in(user.email)
        assert (await client.get("/system/me")).json()["must_enrol"] is True
        assert "Sign in" in await shown(client, "/system/login")


async def test_a_missing_capability_is_named_with_the_command_that_grants_it(doors: Doors, plane: Plane) -> None:
    user = await web.platform_user(plane, Capability.SYSTEM_ACCESS, Capability.RUNBOOKS_VIEW)
    client = await doors.signed_in(user.email)
    page = await shown(client, "/system/audit", 403)
    assert f"opsplane users grant {user.email} platform.audit.view" in page
    assert 'href="/system/audit"' not in page.split("<main")[0], "no navigation to where one may not go"
    assert "You lack platform.runbooks.run" in await shown(client, "/system/ops/runbooks")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/system/ops/runs?status=gone", "<strong>status</strong>: Input should be"),
        ("/system/ops/runs?since=yesterday", "<strong>since</strong>: String should match"),
        ("/system/ops/runs?cursor=x", "This cursor is not one of this list"),
        ("/system/audit?until=5", "write a date such as"),
        ("/system/ops/runs?nonsense=1", "<strong>nonsense</strong>: Extra inputs"),
    ],
)
async def test_a_wrong_address_is_explained_on_a_page(operator_client: Client, url: str, said: str) -> None:
    assert said in await shown(operator_client, url, 422)


async def test_markup_in_data_is_text(operator_client: Client, plane: Plane, operator: Actor) -> None:
    reason = ("DATA_REPAIR", "<img src=x onerror=alert(1)>")
    run_id = await support.finished_run(plane, operator, force=True, reason=reason)
    page = await shown(operator_client, f"/system/ops/runs/{run_id}")
    assert "<img" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


@pytest.mark.parametrize(
    ("theme", "zone", "root"),
    [("dark", "utc", ' data-theme="dark" data-zone="utc">'), ('x"', "mars", ' data-zone="local">')],
)
async def test_likings_come_from_cookies_and_only_known_ones(
    operator_client: Client, theme: str, zone: str, root: str
) -> None:
    operator_client.cookies.set("opsplane_theme", theme)
    operator_client.cookies.set("opsplane_zone", zone)
    assert f'<html lang="en"{root}' in await shown(operator_client, "/system/ops/runs")


async def test_pages_name_every_static_file_by_its_content(operator_client: Client) -> None:
    page = await shown(operator_client, "/system/ops/runbooks")
    files = set(re.findall(r'(?:href|src)="(/static/[^"#]+)', page))
    assert files == {assets.url(name) for name in ("app.css", "shell.js", "runbooks.js", "icons.svg")}
    for file in files:
        assert (await operator_client.get(file)).status_code == 200


def test_the_sprite_holds_every_icon_that_templates_and_badges_name() -> None:
    templates = "".join(file.read_text() for file in (assets.FOLDER.parent / "templates").rglob("*.html"))
    named = set(re.findall(r'icon\("([a-z0-9-]+)"\)', templates)) | set(re.findall(r'event\("([a-z0-9-]+)"', templates))
    named |= {badge.icon for known in badges.CATALOGUE.values() for badge in known.values()}
    assert named <= set(assets.ICONS)
    assert {name for name in assets.ICONS if f'<symbol id="{name}"' not in assets.sprite()} == set()
