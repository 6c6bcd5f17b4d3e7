# ruff: noqa: RUF001 - the pages write dashes as dashes
"""Lists: what their addresses keep, what may not move under the reader, and what is readable without any script."""

import re
import uuid

from playwright.async_api import expect
from sqlalchemy import insert

from opsplane.auth.actors import Actor
from opsplane.auth.roles import Role
from opsplane.db import new_id
from opsplane.runbooks.scopes import Scope, ScopeKind
from opsplane.runbooks.service import Plane
from opsplane.runs.models import OperationRun
from opsplane.tenants.models import Tenant
from tests import support, web
from tests.browser.stage import AUDIT, FAILS, PLAIN, RUNBOOKS, RUNS, Stage, card, look_again


async def add_runs(plane: Plane, tenant: Tenant, count: int) -> list[uuid.UUID]:
    """Runs that are over, the oldest first."""
    ids = [new_id() for _ in range(count)]
    row = {
        "workspace_id": tenant.workspace_id, "type": PLAIN, "runbook_version": 1, "status": "completed",
        "outcome": "succeeded", "scope_kind": "all_tenants", "lock_group": PLAIN,
        "source": "cli", "initiator_kind": "system", "initiator_display": "tester",
        "context": {"preflight": {"affected_count": 40}, "updated_count": 40, "duration_ms": 1200},
        "summary_counts": {"total": 3, "processed": 3, "succeeded": 3, "updated": 40},
    }  # fmt: skip
    async with plane.db.transaction() as tx:
        span = Scope(workspace_id=tenant.workspace_id, kind=ScopeKind.ALL_TENANTS).span
        await tx.session.execute(insert(OperationRun).values(tenant_span=span), [row | {"id": id_} for id_ in ids])
    return ids


async def test_new_runs_wait_behind_a_button_and_push_nothing(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    run = (await support.start(plane, operator, PLAIN, tenant="acme")).run
    page = await stage.page(RUNS, await stage.operator())
    rows = page.locator("#runs tbody tr")
    await expect(rows).to_have_count(1)
    await expect(rows.locator("[data-run-badge]")).to_have_text("Queued")
    await support.drain(plane, run.id)
    await support.start(plane, operator, PLAIN, tenant="globex")
    await look_again(page)
    await expect(rows.locator("[data-run-badge]")).to_have_text("Succeeded")
    await expect(page.get_by_role("link", name="1 new run – show")).to_be_visible()
    await expect(rows).to_have_count(1)
    await page.get_by_role("link", name="1 new run – show").click()
    await expect(rows).to_have_count(2)


async def test_filters_live_in_the_address_come_off_one_by_one_and_the_back_button_brings_them_back(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    await support.drain(plane, (await support.start(plane, operator, FAILS)).run.id)
    await add_runs(plane, tenants[0], 2)
    page = await stage.page(RUNS, await stage.operator())
    rows = page.locator("#runs tbody tr")
    await expect(rows).to_have_count(3)
    await page.get_by_role("combobox", name="Outcome").select_option("succeeded")
    await page.get_by_role("combobox", name="Made within").select_option("7d")
    await page.get_by_role("button", name="Filter").click()
    await expect(page).to_have_url(f"{stage.base_url}{RUNS}?outcome=succeeded&since=7d")
    await expect(rows).to_have_count(2)
    await page.get_by_role("link", name="Remove the filter since: 7d").click()
    await expect(page).to_have_url(f"{stage.base_url}{RUNS}?outcome=succeeded&since=all")
    await page.get_by_role("link", name="Remove the filter outcome").click()
    await expect(rows).to_have_count(3)
    await page.go_back()
    await expect(page).to_have_url(f"{stage.base_url}{RUNS}?outcome=succeeded&since=all")
    await expect(page.get_by_role("combobox", name="Outcome")).to_have_value("succeeded")
    await expect(rows).to_have_count(2)
    await page.go_back()
    await expect(page.get_by_role("combobox", name="Made within")).to_have_value("7d")
    await expect(page.get_by_label("Tenant")).to_be_enabled()


async def test_a_filter_that_nothing_matches_offers_the_way_out(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    await add_runs(plane, tenants[0], 1)
    page = await stage.page(f"{RUNS}?outcome=failed", await stage.operator())
    await expect(page.locator("main")).to_contain_text("No run matches")
    await page.get_by_role("link", name="Clear the filters").click()
    await expect(page.locator("#runs tbody tr")).to_have_count(1)


async def test_pages_of_a_long_list_lead_on_and_back(stage: Stage, plane: Plane, tenants: list[Tenant]) -> None:
    ids = await add_runs(plane, tenants[0], 60)
    page = await stage.page(RUNS, await stage.operator())
    rows = page.locator("#runs tbody tr")
    await expect(rows).to_have_count(50)
    await expect(rows.first).to_have_attribute("data-id", str(ids[-1]))
    await page.get_by_role("link", name="Next page").click()
    await expect(rows).to_have_count(10)
    await page.get_by_role("link", name="First page").click()
    await expect(rows).to_have_count(50)


async def test_a_row_opens_wherever_it_is_clicked(stage: Stage, plane: Plane, tenants: list[Tenant]) -> None:
    [run] = await add_runs(plane, tenants[0], 1)
    page = await stage.page(RUNS, await stage.operator())
    await page.locator("#runs tbody tr").click()  # in its middle
    await expect(page).to_have_url(f"{stage.base_url}{RUNS}/{run}")


async def test_the_search_narrows_the_cards(stage: Stage) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    await page.get_by_role("searchbox").fill("effects.fails")
    await expect(page.locator(".runbook:visible")).to_have_count(1)
    await page.get_by_role("searchbox").fill("no such thing")
    await expect(page.get_by_text("No runbook matches.")).to_be_visible()


async def test_without_scripts_everything_can_be_read_and_the_cards_show_the_exact_command(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    run = (await support.start(plane, operator, FAILS)).run
    await support.drain(plane, run.id)
    context = await stage.context(await stage.operator(), java_script_enabled=False)
    page = await context.new_page()
    await page.goto(RUNBOOKS)
    shown = card(page, PLAIN).locator("noscript pre")
    await expect(shown).to_be_visible()
    await expect(shown).to_contain_text(f"opsplane runbooks preflight {PLAIN}")
    await expect(shown).to_contain_text(
        re.compile(rf"opsplane runbooks start {re.escape(PLAIN)} .*--confirm BACKFILL", re.DOTALL)
    )
    await page.goto(RUNS)
    await expect(page.locator("#runs tbody tr")).to_contain_text("Partially succeeded")
    await page.locator("#runs tbody a").first.click()
    await expect(page.locator("#failures tbody")).to_contain_text("globex")
    await expect(page.locator("#items tbody tr")).to_have_count(3)
    await page.locator("summary").click()
    await expect(page.locator("#json")).to_contain_text(str(run.id))
    await page.goto(AUDIT)
    await expect(page.get_by_role("region", name="Events")).to_contain_text("platform.ops.runbooks.started")


async def test_without_scripts_customers_read_their_findings_and_operations(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    await support.add_findings(plane, tenants[0], 2)
    carla = await web.tenant_user(plane, Role.OWNER, tenants[0])
    context = await stage.context(carla, java_script_enabled=False)
    page = await context.new_page()
    await page.goto("/admin/findings")
    await page.get_by_role("region", name="Findings").get_by_role("link").first.click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("old")
    await expect(page.locator("main")).to_contain_text("acme")
    await page.goto("/admin/operations")
    await expect(page.locator("main")).to_contain_text("No operations yet")


async def test_without_scripts_the_login_page_names_the_command_line(stage: Stage) -> None:
    context = await stage.context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto("/system/login")
    await expect(page.locator("noscript p")).to_contain_text("opsplane runbooks list")
