"""An estimate is called one wherever it is shown, and a click counts instead."""

import pytest
from playwright.async_api import expect

from opsplane.runbooks import registry
from opsplane.runbooks.impact import Impact
from opsplane.tenants.models import Tenant
from tests.browser.stage import PLAIN, RUNBOOKS, Stage, card

GUESS = Impact(affected=6_012_000, total=10_000_000, tenants=3, total_estimated=True, margin_percent=1.4)


@pytest.fixture
def guessing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def estimate(*_: object, **__: object) -> Impact:
        return GUESS

    monkeypatch.setattr(registry.find(PLAIN), "estimate", estimate)


async def test_an_estimate_never_looks_counted_and_a_click_counts(
    stage: Stage, tenants: list[Tenant], guessing: None
) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    runbook = card(page, PLAIN)
    await runbook.get_by_role("button", name="Preflight").click()
    await expect(runbook.locator("[data-stat=affected_count]")).to_have_text("about 6,012,000")
    await expect(runbook.locator("[data-stat=total_count]")).to_have_text("about 10,000,000")
    await expect(runbook.locator("[data-stat=estimated_tenants]")).to_have_text("up to 3")
    await expect(runbook.locator("[data-checked]")).to_contain_text(
        "Estimated from a sample (±\N{NO-BREAK SPACE}1.4\N{NO-BREAK SPACE}%)."
    )
    await runbook.get_by_role("button", name="Run…").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("about 6,012,000 records in up to 3 tenants. This is an estimate;")
    await expect(dialog.get_by_role("button", name="Run on about 6,012,000 records")).to_be_visible()
    await dialog.get_by_role("button", name="Cancel").click()
    await runbook.get_by_role("button", name="Count exactly").click()
    await expect(runbook.locator("[data-stat=affected_count]")).to_have_text("120")
    await expect(runbook.get_by_role("button", name="Preflight")).to_be_focused()
    await expect(runbook.get_by_role("button", name="Count exactly")).to_have_count(0)


async def test_a_run_from_an_estimate_says_so_on_its_page(
    stage: Stage, tenants: list[Tenant], guessing: None, worker: None
) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    runbook = card(page, PLAIN)
    await runbook.get_by_role("button", name="Preflight").click()
    await runbook.get_by_role("button", name="Run…").click()
    dialog = page.get_by_role("dialog")
    await dialog.locator("[name=confirmation]").fill("BACKFILL")
    await dialog.locator("[name=text]").fill("a test")
    await dialog.get_by_role("button", name="Run on about 6,012,000 records").click()
    await page.get_by_role("link", name="View run", exact=True).click()
    await expect(page.locator("[data-badge-slot=outcome]")).to_have_text("Succeeded")
    await expect(page.locator("#main, main")).to_contain_text("about 6,012,000 rows")
    await expect(page.locator('[data-bind="progress.said"]').first).to_have_text(
        "120 rows; a sample had said about 6,012,000"
    )
