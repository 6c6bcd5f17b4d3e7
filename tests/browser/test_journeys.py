"""What operators and customers come for, from the door to the result."""

from playwright.async_api import Page, expect
from sqlalchemy import text

from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import web
from tests.browser.stage import PLAIN, RUNBOOKS, Stage, card


async def effects(plane: Plane) -> dict[str, int]:
    async with plane.db.reading() as session:
        rows = await session.execute(
            text("SELECT external_id, count(*) FROM effects JOIN tenants ON id = tenant_id GROUP BY 1")
        )
        return {row.external_id: row.count for row in rows}


async def log_in(page: Page, email: str, password: str = web.PASSWORD) -> None:
    await page.get_by_label("E-mail").fill(email)
    await page.get_by_label("Password").fill(password)
    await page.keyboard.press("Enter")


async def test_three_clicks_lead_from_a_runbook_to_its_run_over_all_tenants(
    stage: Stage, plane: Plane, tenants: list[Tenant], worker: None
) -> None:
    await stage.operator()
    page = await stage.page(RUNBOOKS)
    await log_in(page, "olga@ops.test")
    await expect(page).to_have_url(stage.base_url + RUNBOOKS)
    runbook = card(page, PLAIN)
    await runbook.get_by_role("button", name="Preflight").click()
    await expect(runbook.locator("[data-stat=affected_count]")).to_have_text("120")
    await runbook.get_by_role("button", name="Run…").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("120 records in about 3 tenants")
    await page.keyboard.type("BACKFILL")
    await dialog.get_by_label("Reason", exact=False).last.fill("a test")
    await dialog.get_by_role("button", name="Run on 120 records").click()
    link = page.get_by_role("link", name="View run")
    await expect(link).to_be_focused()
    assert await page.evaluate("clicked") == ["Preflight", "Run…", "Run on 120 records"]
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Effects")
    await expect(page.locator("[data-badge-slot=outcome]")).to_have_text("Succeeded")
    await expect(page.locator("[data-badge-slot=status]")).to_have_text("Completed")
    assert await effects(plane) == {"acme": 40, "globex": 40, "initech": 40}
