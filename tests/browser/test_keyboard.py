"""Twelve journeys without a pointer."""

import re
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Locator, Page, expect

from opsplane.auth.actors import Actor
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import support, web
from tests.browser.stage import ALERTS, AUDIT, FAILS, PLAIN, RUNBOOKS, RUNS, Stage, card
from tests.browser.test_lists import add_runs


@pytest.fixture(autouse=True)
async def _nothing_was_clicked(stage: Stage) -> AsyncIterator[None]:
    yield
    for context in stage.contexts:
        for page in context.pages:
            assert await page.evaluate("clicked") == []


async def press(page: Page, *keys: str) -> None:
    for key in keys:
        await page.keyboard.press(key)


async def tab_to(page: Page, wanted: Locator, *, key: str = "Tab") -> None:
    """Tab on until it has the focus; it must be on the way."""
    for _ in range(60):
        await page.keyboard.press(key)
        if await wanted.evaluate("element => element === document.activeElement"):
            return
    raise AssertionError(f"{wanted} cannot be reached by {key}")


async def test_signing_in(stage: Stage) -> None:
    await stage.operator()
    page = await stage.page(RUNBOOKS)
    await expect(page.get_by_label("E-mail")).to_be_focused()
    await page.keyboard.type("olga@ops.test")
    await press(page, "Tab")
    await page.keyboard.type(web.PASSWORD)
    await press(page, "Tab", "Tab", "Enter")
    await expect(page).to_have_url(stage.base_url + RUNBOOKS)


async def test_the_first_tab_leads_past_the_navigation(stage: Stage) -> None:
    page = await stage.page(RUNS, await stage.operator())
    await press(page, "Tab")
    skip = page.get_by_role("link", name="Skip to content")
    await expect(skip).to_be_focused()
    await expect(skip).to_be_in_viewport()
    await press(page, "Enter")
    await expect(page.locator("main")).to_be_focused()
    await press(page, "Tab")
    await expect(page.get_by_label("Runbook")).to_be_focused()


async def test_g_and_a_letter_go_to_a_place(stage: Stage) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    for key, path in (("r", RUNS), ("a", AUDIT), ("l", ALERTS), ("b", RUNBOOKS)):
        await press(page, "g", key)
        await expect(page).to_have_url(stage.base_url + path)
        await expect(page.get_by_role("heading", level=1)).to_be_visible()


async def test_a_slash_leads_to_the_search_and_letters_typed_there_are_no_shortcuts(stage: Stage) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    await press(page, "/")
    search = page.get_by_role("searchbox")
    await expect(search).to_be_focused()
    await page.keyboard.type("gr?t")
    await expect(search).to_have_value("gr?t")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await page.goto(RUNS)
    await press(page, "/")
    await expect(page.get_by_label("Tenant")).to_be_focused()


async def test_j_and_k_walk_the_rows_enter_opens_one_and_a_dot_copies_its_id(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    oldest, middle, _ = await add_runs(plane, tenants[0], 3)
    context = await stage.context(await stage.operator(), permissions=["clipboard-read", "clipboard-write"])
    page = await context.new_page()
    await page.goto(RUNS)
    links = page.locator("#runs a.over")
    await press(page, "j")
    await expect(links.nth(0)).to_be_focused()
    await press(page, "j", "j", "j")
    await expect(links.nth(2)).to_be_focused()
    await press(page, ".")
    await expect(page.locator("#toasts")).to_contain_text(f"Copied{oldest}")
    assert await page.evaluate("navigator.clipboard.readText()") == str(oldest)
    await press(page, "k", "Enter")
    await expect(page).to_have_url(f"{stage.base_url}{RUNS}/{middle}")
    await press(page, ".")
    assert await page.evaluate("navigator.clipboard.readText()") == str(middle)


async def test_a_tenant_is_picked_with_arrows_and_esc_closes_the_list_alone(
    stage: Stage, tenants: list[Tenant]
) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    runbook = card(page, PLAIN)
    await tab_to(page, runbook.get_by_label("All tenants"))
    await press(page, "ArrowDown")
    picker, options = runbook.get_by_role("combobox"), runbook.get_by_role("option")
    await press(page, "Tab")
    await expect(picker).to_be_focused()
    await expect(options).to_have_text(["acme", "globex", "initech"])
    await press(page, "Escape")
    await expect(options.first).to_be_hidden()
    await expect(picker).to_have_attribute("aria-expanded", "false")
    await page.keyboard.type("zzz")
    await expect(runbook.get_by_role("status")).to_have_text("No tenant matches “zzz”")
    await press(page, "Enter", "ControlOrMeta+a")
    await page.keyboard.type("e")
    await expect(options).to_have_text(["acme", "globex", "initech"])
    await press(page, "ArrowDown", "ArrowDown", "ArrowUp", "ArrowUp")
    await expect(options.nth(2)).to_have_attribute("aria-selected", "true")
    assert await picker.get_attribute("aria-activedescendant") == await options.nth(2).get_attribute("id")
    await press(page, "Enter")
    await expect(picker).to_have_value("initech")
    await expect(runbook.locator("[data-why]")).to_have_text("Run a preflight first")


async def test_a_run_is_started_and_the_focus_ends_on_its_link(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    runbook = card(page, PLAIN)
    await tab_to(page, runbook.get_by_role("button", name="Preflight"))
    await press(page, "Enter")
    await expect(runbook.locator("[data-stat=affected_count]")).to_have_text("120")
    await press(page, "Tab", "Enter")
    dialog = page.get_by_role("dialog")
    await expect(dialog.locator("[name=confirmation]")).to_be_focused()
    await page.keyboard.type("BACKFILL")
    await press(page, "Tab", "ArrowDown", "Tab")
    await page.keyboard.type("a test")
    await tab_to(page, dialog.get_by_role("button", name="Run on 120 records"))
    await press(page, "Enter")
    await expect(page.get_by_role("link", name="View run", exact=True)).to_be_focused()
    await press(page, "Enter")
    await expect(page).to_have_url(re.compile(RUNS + "/.+"))
    await expect(page.get_by_role("heading", level=1)).to_have_text("Effects")


async def test_esc_asks_before_it_drops_what_was_typed_and_the_focus_goes_back(
    stage: Stage, tenants: list[Tenant]
) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    runbook = card(page, PLAIN)
    await tab_to(page, runbook.get_by_role("button", name="Preflight"))
    await press(page, "Enter")
    run = runbook.get_by_role("button", name="Run…")
    await expect(run).to_have_attribute("aria-disabled", "false")
    await press(page, "Tab", "Enter")
    dialog = page.get_by_role("dialog")
    await page.keyboard.type("BACK")
    await press(page, "Escape")
    await expect(dialog).to_contain_text("Press Esc once more to close.")
    await press(page, "Escape")
    await expect(dialog).to_be_hidden()
    await expect(run).to_be_focused()
    await press(page, "Enter")
    await expect(dialog.locator("[name=confirmation]")).to_have_value("")
    await press(page, "Escape")
    await expect(dialog).to_be_hidden()


async def test_a_question_mark_opens_the_help_and_esc_closes_it(stage: Stage) -> None:
    page = await stage.page(AUDIT, await stage.operator())
    await press(page, "?")
    help_ = page.get_by_role("dialog", name="Keyboard shortcuts")
    await expect(help_).to_be_visible()
    await press(page, "g", "b", "Escape")
    await expect(help_).to_be_hidden()
    await expect(page).to_have_url(stage.base_url + AUDIT)
    await press(page, "?", "Enter")
    await expect(help_).to_be_hidden()


async def test_the_account_menu_changes_the_theme_and_signs_out(stage: Stage) -> None:
    page = await stage.page(AUDIT, await stage.operator())
    await tab_to(page, page.get_by_role("button", name="Account of"))
    await press(page, "Enter", "Tab", "Enter")
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    await press(page, "Escape")
    await expect(page.get_by_role("button", name="Account of")).to_be_focused()
    await press(page, "t")
    await expect(page.locator("html")).to_have_attribute("data-theme", "light")
    await press(page, "Enter")
    await tab_to(page, page.get_by_role("button", name="Sign out"))
    await press(page, "Enter")
    await expect(page).to_have_url(f"{stage.base_url}/system/login")


async def test_arrows_in_the_grid_name_the_tenants(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    run = (await support.start(plane, operator, FAILS)).run
    await support.drain(plane, run.id)
    page = await stage.page(f"{RUNS}/{run.id}", await stage.operator())
    await tab_to(page, page.locator("#grid"))
    for key, said in (
        ("ArrowRight", "acme: Repaired, 40 rows"), ("ArrowRight", "globex: Failed, 20 rows"),
        ("ArrowRight", "initech: Repaired, 40 rows"), ("ArrowRight", "initech: "), ("ArrowLeft", "globex: "),
    ):  # fmt: skip
        await press(page, key)
        await expect(page.locator("#grid-said")).to_contain_text(said)
        await expect(page.locator("#live")).to_contain_text(said)
    await tab_to(page, page.locator("summary"))
    await press(page, "Enter")
    await expect(page.locator("#json")).to_be_visible()
    await expect(page.locator("#json")).to_contain_text(str(run.id))


async def test_shortcuts_that_are_switched_off_do_nothing_on_any_page(stage: Stage) -> None:
    page = await stage.page(AUDIT, await stage.operator())
    await tab_to(page, page.get_by_role("button", name="Account of"))
    await press(page, "Enter")
    switch = page.get_by_role("button", name="Keyboard shortcuts")
    await tab_to(page, switch)
    await expect(switch).to_have_attribute("aria-pressed", "true")
    await press(page, "Enter")
    await expect(switch).to_have_attribute("aria-pressed", "false")
    await press(page, "Escape")
    await page.goto(RUNS)
    await press(page, "?", "t", "g", "b", "/", "j")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await expect(page.locator("html")).not_to_have_attribute("data-theme", "dark")
    await expect(page).to_have_url(stage.base_url + RUNS)
    await expect(page.locator("body")).to_be_focused()
