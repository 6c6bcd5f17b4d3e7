# ruff: noqa: RUF001 - the pages write dashes as dashes
"""What operators come for: from a runbook to its run, and every way in which it does not go straight."""

import asyncio

from playwright.async_api import Locator, Page, Route, expect
from sqlalchemy import text

from opsplane.auth.actors import Actor
from opsplane.runbooks.service import Plane
from opsplane.runs import lifecycle
from opsplane.runs.models import OperationRun
from opsplane.tenants import universe
from opsplane.tenants.models import Tenant
from tests import support, web
from tests.browser.conftest import Server
from tests.browser.stage import FAILS, PLAIN, RUNBOOKS, RUNS, SLOW, Stage, card, look_again
from tests.support import BACKFILL

EFFECTS = "SELECT external_id, count(*) AS rows FROM effects JOIN tenants ON id = tenant_id GROUP BY 1"


async def effects(plane: Plane) -> dict[str, int]:
    async with plane.db.reading() as session:
        return {row.external_id: row.rows for row in await session.execute(text(EFFECTS))}


async def change(plane: Plane, sql: str) -> None:
    async with plane.db.transaction() as tx:
        await tx.session.execute(text(sql))


async def runs(plane: Plane) -> int:
    return await support.count(plane, OperationRun)


async def log_in(page: Page, email: str = "olga@ops.test", password: str = web.PASSWORD) -> None:
    await page.get_by_label("E-mail").fill(email)
    await page.get_by_label("Password").fill(password)
    await page.get_by_label("Password").press("Enter")


async def preflight(page: Page, key: str = PLAIN) -> Locator:
    runbook = card(page, key)
    await runbook.get_by_role("button", name="Preflight").click()
    await expect(runbook.locator("[data-checked]")).to_contain_text("valid for 15 min")
    return runbook


async def dialog_of(page: Page, key: str = PLAIN, *, phrase: str = "BACKFILL", reason: str = "a test") -> Locator:
    """The dialog of a run over all tenants, filled in."""
    runbook = await preflight(page, key)
    await runbook.get_by_role("button", name="Run…").click()
    dialog = page.get_by_role("dialog")
    await dialog.locator("[name=confirmation]").fill(phrase)
    await dialog.locator("[name=text]").fill(reason)
    return dialog


def why(runbook: Locator) -> Locator:
    return runbook.locator("[data-why]")


async def test_three_clicks_lead_from_a_runbook_to_its_run_over_all_tenants(
    stage: Stage, plane: Plane, tenants: list[Tenant], worker: None
) -> None:
    await stage.operator()
    page = await stage.page(RUNBOOKS)
    await log_in(page)
    await expect(page).to_have_url(stage.base_url + RUNBOOKS)
    runbook = card(page, PLAIN)
    await runbook.get_by_role("button", name="Preflight").click()
    await expect(runbook.locator("[data-stat=affected_count]")).to_have_text("120")
    await runbook.get_by_role("button", name="Run…").click()
    dialog = page.get_by_role("dialog", name="Run Effects on all tenants?")
    await expect(dialog).to_contain_text("120 records in about 3 tenants")
    await page.keyboard.type("BACKFILL")
    await dialog.locator("[name=text]").fill("a test")
    await dialog.get_by_role("button", name="Run on 120 records").click()
    link = page.get_by_role("link", name="View run", exact=True)
    await expect(link).to_be_focused()
    assert await page.evaluate("clicked") == ["Preflight", "Run…", "Run on 120 records"]
    await page.keyboard.press("Enter")
    await expect(page.locator("[data-badge-slot=outcome]")).to_have_text("Succeeded")
    await expect(page.locator("[data-badge-slot=status]")).to_have_text("Completed")
    await expect(page.locator('[data-bind="summary_counts.updated"]')).to_have_text("120")
    assert await effects(plane) == {"acme": 40, "globex": 40, "initech": 40}


async def test_three_clicks_and_a_tenant_picked_by_name_change_that_tenant_alone(
    stage: Stage, plane: Plane, tenants: list[Tenant], worker: None
) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    runbook = card(page, PLAIN)
    await runbook.get_by_label("All tenants").press("ArrowRight")
    picker = runbook.get_by_role("combobox", name="Tenant")
    await page.keyboard.press("Tab")
    await expect(picker).to_be_focused()
    await page.keyboard.type("glob")
    await expect(runbook.get_by_role("option")).to_have_text(["globex"])
    await page.keyboard.press("Enter")
    await expect(picker).to_have_value("globex")
    await preflight(page)
    await runbook.get_by_role("button", name="Run…").click()
    dialog = page.get_by_role("dialog", name="Run Effects on globex?")
    await expect(dialog.locator("[name=confirmation]")).to_be_hidden()
    await dialog.get_by_role("button", name="Run on 40 records").click()
    link = page.get_by_role("link", name="View run", exact=True)
    await expect(link).to_be_focused()
    assert await page.evaluate("clicked") == ["Preflight", "Run…", "Run on 40 records"]
    await page.keyboard.press("Enter")
    await expect(page.locator("[data-badge-slot=outcome]")).to_have_text("Succeeded")
    assert await effects(plane) == {"globex": 40}


async def test_a_preflight_that_finds_nothing_says_so_where_run_would_be(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    runbook = await preflight(page, BACKFILL)
    await expect(why(runbook)).to_have_text("Nothing to do")
    run = runbook.get_by_role("button", name="Run…", description="Nothing to do")
    await expect(run).to_have_attribute("aria-disabled", "true")
    await run.click(force=True)
    await expect(page.get_by_role("dialog")).to_be_hidden()


async def test_another_scope_takes_the_preflight_back(stage: Stage, tenants: list[Tenant]) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    runbook = await preflight(page)
    await expect(runbook.get_by_role("button", name="Run…")).to_be_enabled()
    await runbook.get_by_label("Single tenant").check()
    await expect(runbook.locator("[data-stat=affected_count]")).to_have_text("–")
    await expect(why(runbook)).to_have_text("Pick a tenant first")
    await runbook.get_by_label("All tenants").check()
    await expect(why(runbook)).to_have_text("Run a preflight first")


async def test_a_wrong_phrase_and_a_missing_reason_are_refused_in_the_dialog(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    dialog = await dialog_of(page, phrase="backfill", reason="")
    await dialog.get_by_role("button", name="Run on").click()
    phrase, reason = dialog.locator("[name=confirmation]"), dialog.locator("[name=text]")
    await expect(dialog).to_contain_text("Type BACKFILL, exactly as it is written.")
    await expect(phrase).to_be_focused()
    await expect(phrase).to_have_attribute("aria-invalid", "true")
    await phrase.fill("BACKFILL")
    await dialog.get_by_role("button", name="Run on").click()
    await expect(reason).to_be_focused()
    await expect(dialog).to_contain_text("Say why; it is on record with the run.")
    assert await runs(plane) == 0
    await reason.fill("a test")
    await dialog.get_by_role("button", name="Run on").click()
    await expect(page.get_by_role("link", name="View run", exact=True)).to_be_focused()
    assert await runs(plane) == 1


async def test_a_double_click_starts_one_run(stage: Stage, plane: Plane, tenants: list[Tenant]) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    dialog = await dialog_of(page)
    await dialog.get_by_role("button", name="Run on").dblclick()
    await expect(page.get_by_role("link", name="View run", exact=True)).to_be_focused()
    assert await runs(plane) == 1


async def test_a_start_whose_answer_was_lost_is_the_same_start_when_sent_again(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    dialog = await dialog_of(page)
    stage.announce("net::ERR_FAILED POST .*/start")

    async def swallow(route: Route) -> None:
        await route.fetch()
        await route.abort()

    await page.route("**/start", swallow, times=1)
    await dialog.get_by_role("button", name="Run on").click()
    await expect(dialog).to_contain_text("opsplane cannot be reached")
    assert await runs(plane) == 1
    await dialog.get_by_role("button", name="Run on").click()
    await expect(page.get_by_role("link", name="View run", exact=True)).to_be_focused()
    assert await runs(plane) == 1


async def test_a_scope_that_is_held_shows_the_run_that_holds_it(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    held = (await support.start(plane, operator, SLOW, tenant="acme")).run
    page = await stage.page(RUNBOOKS, await stage.operator())
    runbook = card(page, SLOW)
    await expect(why(runbook)).to_have_text("Running now – view run")
    await expect(why(card(page, PLAIN))).to_have_text("Run a preflight first")
    await support.drain(plane, held.id)
    await look_again(page)
    await expect(why(runbook)).to_have_text("Run a preflight first")
    again = (await support.start(plane, operator, SLOW)).run
    await look_again(page)
    await why(runbook).get_by_role("link", name="view run").click()
    await expect(page).to_have_url(f"{stage.base_url}{RUNS}/{again.id}")


async def test_a_scope_taken_between_preflight_and_start_refuses_with_the_way_to_its_run(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    dialog = await dialog_of(page)
    theirs = (await support.start(plane, operator, PLAIN)).run
    stage.announce("409 POST .*/start")
    await dialog.get_by_role("button", name="Run on").click()
    link = dialog.get_by_role("alert").get_by_role("link", name="View run", exact=True)
    await expect(link).to_have_attribute("href", f"{RUNS}/{theirs.id}")
    await expect(dialog.locator("[name=text]")).to_have_value("a test")
    assert await runs(plane) == 1
    await dialog.get_by_role("button", name="Cancel").click()
    await expect(why(card(page, PLAIN))).to_have_text("Running now – view run")


async def test_a_preflight_that_has_expired_on_the_page_must_be_made_again(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    context = await stage.context(await stage.operator())
    page = await context.new_page()
    await page.clock.install()
    await page.goto(RUNBOOKS)
    runbook = await preflight(page)
    await page.clock.fast_forward("15:01")
    await expect(why(runbook)).to_have_text("Preflight expired")
    await expect(runbook.get_by_role("button", name="Run…")).to_have_attribute("aria-disabled", "true")


async def universe_grows(plane: Plane) -> None:
    async with plane.db.transaction() as tx:
        await universe.add(tx.session, await universe.workspace_id(tx.session), "umbrella")


async def test_what_the_dialog_names_is_what_a_late_preflight_cannot_change(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    runbook = card(page, PLAIN)
    await preflight(page)
    late = asyncio.Event()

    async def wait(route: Route) -> None:
        await late.wait()
        await route.continue_()

    await page.route("**/preflight", wait)
    await runbook.get_by_role("button", name="Preflight").click()
    await expect(runbook.get_by_role("button", name="Run…")).to_have_attribute("aria-disabled", "true")
    await expect(runbook.locator("[data-why]")).to_have_text("Run a preflight first")
    late.set()
    await expect(runbook.get_by_role("button", name="Run…")).to_have_attribute("aria-disabled", "false")


async def test_a_start_on_its_way_cannot_be_called_back_by_esc(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    dialog = await dialog_of(page)
    late = asyncio.Event()

    async def wait(route: Route) -> None:
        await late.wait()
        await route.continue_()

    await page.route("**/start", wait)
    await dialog.get_by_role("button", name="Run on").click()
    await expect(dialog.get_by_role("button", name="Starting…")).to_be_visible()
    await dialog.get_by_role("button", name="Cancel").click()
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_visible()
    late.set()
    await expect(page.get_by_role("link", name="View run", exact=True)).to_be_focused()


async def test_a_preflight_that_the_server_no_longer_takes_is_made_again_from_the_dialog(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    dialog = await dialog_of(page)
    await change(plane, "UPDATE preflights SET expires_at = clock_timestamp()")
    stage.announce("409 POST .*/start")
    await dialog.get_by_role("button", name="Run on").click()
    await universe_grows(plane)
    await dialog.get_by_role("button", name="Preflight again").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("It was 120 records, and is 160 records now.")
    await expect(dialog.locator("[name=text]")).to_have_value("a test")
    await dialog.get_by_role("button", name="Run on 160 records").click()
    await expect(page.get_by_role("link", name="View run", exact=True)).to_be_focused()


async def test_a_run_that_failed_for_one_tenant_names_it_with_code_and_message(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    run = (await support.start(plane, operator, FAILS)).run
    page = await stage.page(f"{RUNS}/{run.id}", await stage.operator())
    await support.drain(plane, run.id)
    await expect(page.locator("[data-badge-slot=outcome]")).to_have_text("Partially succeeded")
    [failure] = (await support.show(plane, run.id)).failures
    row = page.locator("#failures tbody tr")
    await expect(row).to_have_count(1)
    for said in ("globex", failure.code, failure.message):
        await expect(row).to_contain_text(said)
    await expect(page.locator("body")).not_to_contain_text("bob@globex.example")
    await page.locator('[data-bind="summary_counts.failed"]').click()
    await expect(page).to_have_url(f"{stage.base_url}{RUNS}/{run.id}?state=failed#tenants")
    await expect(page.locator("#items tbody tr")).to_have_count(1)
    await expect(page.locator("#items tbody tr")).to_contain_text("globex")
    await page.get_by_role("link", name="Remove the filter state: failed").click()
    await expect(page.locator("#items tbody tr")).to_have_count(3)


async def test_a_stream_that_is_cut_says_so_falls_back_to_asking_and_comes_back(
    stage: Stage, plane: Plane, server: Server, tenants: list[Tenant], operator: Actor
) -> None:
    run = (await support.start(plane, operator, FAILS)).run
    context = await stage.context(await stage.operator())
    page = await context.new_page()
    await page.clock.install()
    await page.goto(f"{RUNS}/{run.id}")
    pill = page.locator("#pill")
    await expect(pill).to_have_text("Live")
    stage.announce("ERR_.* GET .*/events")
    await page.route("**/events", lambda route: route.abort())
    server.cut()
    await expect(pill).to_have_text("Reconnecting")
    async with plane.db.transaction() as tx:
        await lifecycle.begin(tx.session, run.id)
    await page.clock.fast_forward(30_000)
    await expect(pill).to_contain_text("Retry")
    await expect(page.locator("[data-badge-slot=status]")).to_have_text("Running")
    await page.unroute("**/events")
    await expect(pill).to_have_text("Live")
    await support.drain(plane, run.id)
    await expect(page.locator("[data-badge-slot=status]")).to_have_text("Completed")
    await expect(pill).to_be_hidden()


async def test_a_session_that_ends_in_the_middle_costs_no_word_and_leads_back(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    dialog = await dialog_of(page, reason="a long story")
    await change(plane, "UPDATE system_sessions SET revoked_at = clock_timestamp()")
    stage.announce("404 POST .*/start", "404 GET /system/(me|ops/runbooks)")
    await dialog.get_by_role("button", name="Run on").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("Your session has ended")
    await expect(dialog.locator("[name=text]")).to_have_value("a long story")
    assert await runs(plane) == 0
    await dialog.get_by_role("link", name="sign in here").click()
    await log_in(page)
    await expect(page).to_have_url(stage.base_url + RUNBOOKS)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Runbooks")


async def test_signing_in_in_another_tab_lets_the_dialog_go_on(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    context = await stage.context(olga := await stage.operator())
    page = await context.new_page()
    await page.goto(RUNBOOKS)
    dialog = await dialog_of(page)
    await change(plane, "UPDATE system_sessions SET revoked_at = clock_timestamp()")
    stage.announce("404 POST .*/start", "404 GET /system/(me|ops/runbooks)")
    await dialog.get_by_role("button", name="Run on").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("Your session has ended")
    await stage.sign_in(context, olga)
    await dialog.get_by_role("button", name="Run on").click()
    await expect(page.get_by_role("link", name="View run", exact=True)).to_be_focused()
