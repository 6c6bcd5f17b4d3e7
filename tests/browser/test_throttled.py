"""A run that the database's state holds up says so where people look, and no longer once it goes on."""

from playwright.async_api import expect

from opsplane.auth.actors import Actor
from opsplane.runbooks.service import Plane
from opsplane.runs.throttling import marks
from opsplane.tenants.models import Tenant
from tests.browser.run_page import begun, status
from tests.browser.stage import RUNS, Stage

REASON = "replica is 14 s behind"


async def test_a_throttled_run_says_why_and_since_when_live_and_in_the_list(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    run = await begun(plane, operator)
    page = await stage.page(f"{RUNS}/{run}", await stage.operator())
    await expect(status(page)).to_have_text("Running")
    await expect(page.locator("#throttled")).to_be_hidden()
    async with plane.db.transaction() as tx:
        await marks.put(tx.session, run, REASON)
    plane.queue.hints.moved(run)
    await expect(status(page)).to_have_text("Throttled")
    await expect(page.locator("#next-step")).to_contain_text(f"Throttled: {REASON}.")
    await expect(page.locator("#throttled time")).to_be_visible()
    await expect(page.locator("#live")).to_have_text(f"Throttled: {REASON}")
    await page.reload()
    await expect(page.locator("#next-step.callout.amber")).to_contain_text(f"Throttled: {REASON}.")
    await expect(page.locator("#throttled time")).to_be_visible()
    listed = await stage.page(RUNS, await stage.operator(email="omar@ops.test"))
    row = listed.locator("#runs tbody tr")
    await expect(row.locator("[data-run-badge]")).to_have_text("Throttled")
    await expect(row.locator("[data-why]")).to_have_text(REASON)
    async with plane.db.transaction() as tx:
        await marks.lift(tx.session, run)
    plane.queue.hints.moved(run)
    await expect(status(page)).to_have_text("Running")
    await expect(page.locator("#throttled")).to_be_hidden()
    await expect(row.locator("[data-run-badge]")).to_have_text("Running", timeout=15_000)
    await expect(row.locator("[data-why]")).to_be_hidden()
