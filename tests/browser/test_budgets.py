"""What a page may weigh: bytes over the wire and requests, on a cold cache and on a warm one."""

from dataclasses import dataclass

import pytest
from playwright.async_api import Page, expect
from sqlalchemy import text

from opsplane.auth.actors import Actor
from opsplane.auth.models import PlatformUser, TenantUser
from opsplane.auth.roles import Role
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import support, web
from tests.browser.conftest import Server
from tests.browser.stage import ALERTS, AUDIT, PLAIN, RUNBOOKS, RUNS, Stage
from tests.browser.test_lists import add_runs

SCRIPTS_BYTES, STYLES_BYTES, DOCUMENT_BYTES, REQUESTS = 15_000, 12_000, 15_000, 6
LOADED = """
[...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
  .map(({ name, encodedBodySize }) => [name, encodedBodySize])
"""
PAGES = (
    "/system/login", RUNBOOKS, RUNS, f"{RUNS}/queued", f"{RUNS}/done", AUDIT, ALERTS,
    "/admin/login", "/admin/findings", "/admin/findings/one", "/admin/operations", "/",
)  # fmt: skip


@dataclass
class Weight:
    """What a page took over the wire, in compressed bytes."""

    scripts: int
    styles: int
    document: int


async def weigh(page: Page) -> Weight:
    loaded: list[tuple[str, int]] = await page.evaluate(LOADED)
    return Weight(
        scripts=sum(size for name, size in loaded if name.endswith(".js")),
        styles=sum(size for name, size in loaded if name.endswith(".css")),
        document=loaded[0][1],
    )


@pytest.fixture
async def people(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> dict[str, PlatformUser | TenantUser]:
    """Somebody for each plane, and 50 rows in every list."""
    await add_runs(plane, tenants[0], 60)
    await support.add_findings(plane, tenants[0], 60)
    return {"system": await stage.operator(), "admin": await web.tenant_user(plane, Role.OWNER, tenants[0])}


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_loads_in_few_requests_and_bytes_once_and_then_alone(
    stage: Stage, plane: Plane, tenants: list[Tenant], server: Server, operator: Actor,
    people: dict[str, PlatformUser | TenantUser], path: str,
) -> None:  # fmt: skip
    if path.startswith(RUNS + "/"):
        run = (await support.start(plane, operator, PLAIN)).run
        if path.endswith("done"):
            await support.drain(plane, run.id)
        path = f"{RUNS}/{run.id}"
    if path.endswith("/one"):
        path = path.replace("one", await a_finding(plane))
    who = None if path.endswith("login") else people.get(path.split("/")[1])
    context = await stage.context(who)
    page = await context.new_page()
    server.asked.clear()
    await page.goto(path, wait_until="networkidle" if "queued" in path else "load")
    await page.wait_for_timeout(150)
    cold, weight = list(server.asked), await weigh(page)
    assert len(cold) <= REQUESTS, cold
    assert weight.scripts <= SCRIPTS_BYTES
    assert weight.styles <= STYLES_BYTES
    assert weight.document <= DOCUMENT_BYTES
    again = await context.new_page()
    server.asked.clear()
    await again.goto(path)
    await again.wait_for_timeout(150)
    assert [asked for asked in server.asked if not asked.endswith("/events")] == [path]


@pytest.mark.parametrize("path", [RUNS, AUDIT, "/admin/findings"])
async def test_fifty_rows_fit_the_budget_of_a_document(
    stage: Stage, people: dict[str, PlatformUser | TenantUser], path: str
) -> None:
    page = await stage.page(path, people[path.split("/")[1]])
    assert await page.locator("tbody tr").count() >= 50 or path == AUDIT
    assert (await weigh(page)).document <= DOCUMENT_BYTES


async def test_a_link_that_the_pointer_rests_on_is_fetched_before_the_click(stage: Stage, server: Server) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    audit = page.get_by_role("link", name="Audit")
    async with page.context.expect_event("requestfinished", lambda request: request.url.endswith(AUDIT)):
        await audit.hover()
    server.asked.clear()
    await audit.click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Audit")
    assert AUDIT not in server.asked
    assert await page.evaluate("performance.getEntriesByType('navigation')[0].deliveryType") == "navigational-prefetch"


async def a_finding(plane: Plane) -> str:
    async with plane.db.reading() as session:
        return str(await session.scalar(text("SELECT id FROM findings LIMIT 1")))
