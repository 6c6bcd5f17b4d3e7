"""What operators confirm on a run's page: cancel, retry; and what the dialogs say when others were faster."""

import asyncio
import re

import pytest
from playwright.async_api import Route, expect

from opsplane.auth.actors import Actor
from opsplane.runbooks import control, registry
from opsplane.runbooks.impact import Impact
from opsplane.runbooks.service import Plane
from opsplane.runs.control import Ask
from opsplane.tenants.models import Tenant
from tests import support, web
from tests.browser.conftest import Server, a_worker
from tests.browser.run_page import (
    OLGA,
    asked,
    bar,
    begun,
    button,
    ended,
    held_back,
    outcome,
    retry_dialog,
    status,
    steps,
)
from tests.browser.stage import EVERYTHING, FAILS, PLAIN, RUNS, Stage
from tests.browser.test_journeys import change, effects, runs
from tests.browser.test_keyboard import press, tab_to

REST = "have not ended: those not begun are left alone, those in work keep what their chunks have done so far."


async def test_cancel_tells_how_far_it_is_esc_keeps_it_and_what_is_repaired_stays_repaired(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor, gate: asyncio.Event, server: Server
) -> None:
    run = await begun(plane, operator)
    page = await stage.page(f"{RUNS}/{run}", await stage.operator())
    server.asked.clear()
    await tab_to(page, button(page, "Cancel…"))
    await press(page, "Enter")
    dialog = page.get_by_role("dialog", name="Cancel Effects on all tenants?")
    await expect(dialog).to_contain_text("So far: 0 of 120 rows (0 %).")
    await expect(dialog).to_contain_text(f"What is repaired stays repaired. 3 tenants {REST}")
    drained = asyncio.create_task(support.drain(plane, run))
    await expect(dialog).to_contain_text("So far: 40 of 120 rows (33 %).")
    await expect(dialog).to_contain_text(f"2 tenants {REST}")
    await expect(button(dialog, "Keep it running")).to_be_focused()
    await press(page, "Escape")
    await expect(dialog).to_be_hidden()
    await expect(button(page, "Cancel…")).to_be_focused()
    assert asked(server, "cancel") == 0
    await press(page, "Enter", "Tab", "Enter")
    await expect(dialog).to_be_hidden()
    await expect(status(page)).to_have_text("Cancelling")
    await expect(page.get_by_role("heading", level=1)).to_be_focused()
    await expect(page.locator("#toasts")).to_contain_text("Asked to cancel")
    gate.set()
    await drained
    await expect(outcome(page)).to_have_text("Cancelled")
    done = await effects(plane)
    assert done["acme"] == 40
    assert "initech" not in done
    assert await bar(page) == pytest.approx(sum(done.values()) / 120, abs=0.001)
    await expect(steps(page).nth(3)).to_have_text("Cancel asked")
    await expect(steps(page).nth(4)).to_have_text(f"by {OLGA}")


async def test_a_queued_run_is_cancelled_at_once_and_nothing_was_changed(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    run = (await support.start(plane, operator, PLAIN)).run
    page = await stage.page(f"{RUNS}/{run.id}", await stage.operator())
    await button(page, "Cancel…").click()
    dialog = page.get_by_role("dialog")
    await expect(button(dialog, "Keep it queued")).to_be_visible()
    await button(dialog, "Cancel this run").click()
    await expect(outcome(page)).to_have_text("Cancelled")
    await expect(page.get_by_role("heading", level=1)).to_be_focused()
    assert await effects(plane) == {}


async def test_a_double_click_cancels_once(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor, server: Server
) -> None:
    run = await begun(plane, operator, held=True)
    page = await stage.page(f"{RUNS}/{run}", await stage.operator())
    await button(page, "Cancel…").click()
    server.asked.clear()
    await button(page.get_by_role("dialog"), "Cancel this run").dblclick()
    await expect(status(page)).to_have_text("Cancelling")
    assert asked(server, "cancel") == 1


async def test_cancelling_what_somebody_has_cancelled_already_does_no_harm_and_names_them(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor, server: Server
) -> None:
    run = await begun(plane, operator, held=True)
    page = await stage.page(f"{RUNS}/{run}", await stage.operator())
    stage.announce("ERR_.* GET .*/events")
    await expect(page.locator("#pill")).to_have_text("Live")
    await page.route("**/events", lambda route: route.abort())  # she does not see what he does
    server.cut()
    await button(page, "Cancel…").click()
    await control.ask(plane, run, Ask.CANCEL, by=Actor.shell("omar"))
    await button(page.get_by_role("dialog"), "Cancel this run").click()
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await expect(status(page)).to_have_text("Cancelling")
    await expect(page.locator("#asked")).to_contain_text("Cancel asked by omar")


async def test_a_dialog_whose_run_somebody_else_cancels_says_so_and_has_nothing_to_confirm(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor, server: Server
) -> None:
    run = await begun(plane, operator, held=True)
    page = await stage.page(f"{RUNS}/{run}", await stage.operator())
    server.asked.clear()
    await button(page, "Cancel…").click()
    await control.ask(plane, run, Ask.CANCEL, by=Actor.shell("omar"))
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("omar has asked for it already.")
    await button(dialog, "Cancel this run").click(force=True)
    await button(dialog, "Close").click()
    await expect(dialog).to_be_hidden()
    await expect(page.get_by_role("heading", level=1)).to_be_focused()
    assert asked(server, "cancel") == 0


async def test_a_run_that_ends_while_it_is_being_cancelled_refuses_and_shows_how_it_ended(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    run = await begun(plane, operator)
    page = await stage.page(f"{RUNS}/{run}", await stage.operator())
    late = await held_back(page, "**/cancel")
    stage.announce("409 POST .*/cancel")
    await button(page, "Cancel…").click()
    dialog = page.get_by_role("dialog")
    await button(dialog, "Cancel this run").click()
    await expect(button(dialog, "Cancelling…")).to_be_visible()
    await press(page, "Escape")
    await expect(dialog).to_be_visible()
    await support.drain(plane, run)
    late.set()
    await expect(dialog.get_by_role("alert")).to_contain_text("A run that is completed cannot be cancelled")
    await expect(dialog).to_contain_text("It has ended: there is nothing left to cancel.")
    await button(dialog, "Close").click()
    await expect(outcome(page)).to_have_text("Succeeded")
    await expect(page.get_by_role("heading", level=1)).to_be_focused()


async def test_what_failed_is_retried_in_a_run_of_its_own_that_links_back(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    old = await ended(plane, operator)
    page = await stage.page(f"{RUNS}/{old}", await stage.operator())
    await tab_to(page, button(page, "Retry 1 failed tenant…"))
    await press(page, "Enter")
    dialog = page.get_by_role("dialog", name="Retry 1 failed tenant of Effects?")
    await expect(dialog).to_contain_text(
        "This modifies customer data: 1 failed tenant of this run over all tenants: globex."
    )
    await expect(dialog).to_contain_text("While the retry goes on, all tenants are locked, as in the first run.")
    await expect(dialog.get_by_label("Reason code")).to_be_focused()
    await expect(dialog.get_by_label("Reason code")).to_have_value("DATA_REPAIR")
    await expect(dialog.locator("[name=text]")).to_have_value("a test")
    await press(page, "Tab", "ControlOrMeta+a")
    await page.keyboard.type("the cause is mended")
    await press(page, "Tab", "Tab", "Enter")
    await expect(page.get_by_role("link", name="View run", exact=True)).to_be_focused()
    assert await runs(plane) == 2
    await press(page, "Enter")
    link = page.get_by_role("link", name=f"run {old}")
    await expect(link).to_have_attribute("href", f"{RUNS}/{old}")
    await expect(page.locator("main")).to_contain_text("the cause is mended")
    async with a_worker(plane):
        await expect(outcome(page)).to_have_text("Failed")
    await expect(page.locator("#items tbody tr")).to_have_count(1)
    await expect(page.locator("#items tbody tr")).to_contain_text("globex")


async def test_a_retry_needs_no_new_reason_and_a_double_click_starts_one(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    old = await ended(plane, operator)
    page = await stage.page(f"{RUNS}/{old}", await stage.operator())
    dialog = await retry_dialog(page)
    await dialog.locator("[name=text]").fill("")
    await button(dialog, "Retry 1 failed tenant").dblclick()
    await expect(page.get_by_role("link", name="View run", exact=True)).to_be_focused()
    assert await runs(plane) == 2
    await page.get_by_role("link", name="View run", exact=True).click()
    await expect(page.get_by_role("heading", level=1)).to_be_visible()
    await expect(page.locator("main")).to_contain_text("Data repair: a test")


async def test_a_retry_while_its_scope_is_held_leads_to_the_run_that_holds_it(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    old = await ended(plane, operator)
    theirs = (await support.start(plane, operator, FAILS)).run
    page = await stage.page(f"{RUNS}/{old}", await stage.operator())
    stage.announce("409 POST .*/retry-failed")
    dialog = await retry_dialog(page)
    await button(dialog, "Retry 1 failed tenant").click()
    link = dialog.get_by_role("alert").get_by_role("link", name="View run", exact=True)
    await expect(link).to_have_attribute("href", f"{RUNS}/{theirs.id}")
    assert await runs(plane) == 2
    await press(page, "Escape")
    await expect(dialog).to_be_hidden()
    await expect(button(page, "Retry 1 failed tenant…")).to_be_focused()


async def test_a_retry_of_what_is_right_by_now_says_that_there_is_nothing_to_do(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await ended(plane, operator)

    async def nothing(*_: object) -> Impact:
        return Impact(affected=0, total=40, tenants=0)

    monkeypatch.setattr(registry.find(FAILS), "preflight", nothing)
    page = await stage.page(f"{RUNS}/{old}", await stage.operator())
    stage.announce("409 POST .*/retry-failed")
    dialog = await retry_dialog(page)
    await button(dialog, "Retry 1 failed tenant").click()
    await expect(dialog.get_by_role("alert")).to_contain_text(re.compile("nothing", re.IGNORECASE))
    assert await runs(plane) == 1


async def test_a_retry_whose_answer_was_lost_is_the_same_when_sent_again_and_other_words_are_refused(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    old = await ended(plane, operator)
    page = await stage.page(f"{RUNS}/{old}", await stage.operator())
    stage.announce("net::ERR_FAILED POST .*/retry-failed", "422 POST .*/retry-failed")

    async def swallow(route: Route) -> None:
        await route.fetch()
        await route.abort()

    await page.route("**/retry-failed", swallow, times=1)
    dialog = await retry_dialog(page)
    await button(dialog, "Retry 1 failed tenant").click()
    await expect(dialog).to_contain_text("opsplane cannot be reached")
    await dialog.locator("[name=text]").fill("something else")
    await button(dialog, "Retry 1 failed tenant").click()
    await expect(dialog).to_contain_text("Your first attempt got through")
    await dialog.locator("[name=text]").fill("a test")
    await button(dialog, "Retry 1 failed tenant").click()
    await expect(page.get_by_role("link", name="View run", exact=True)).to_be_focused()
    assert await runs(plane) == 2


async def test_esc_asks_before_it_drops_a_reason_that_was_typed(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    page = await stage.page(f"{RUNS}/{await ended(plane, operator)}", await stage.operator())
    dialog = await retry_dialog(page)
    await dialog.locator("[name=text]").fill("a long story")
    await press(page, "Escape")
    await expect(dialog).to_contain_text("Press Esc once more to close.")
    await press(page, "Escape")
    await expect(dialog).to_be_hidden()


async def test_in_an_emergency_a_retry_must_say_why(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    old = await ended(plane, operator)
    page = await stage.page(f"{RUNS}/{old}", await web.platform_user(plane, *EVERYTHING))
    await page.get_by_role("button", name="Account of").click()
    await button(page, "Break glass…").click()
    await page.get_by_role("dialog").get_by_label("Reason").fill("the billing is down")
    await button(page.get_by_role("dialog"), "Break glass").click()
    await expect(page.locator(".emergency")).to_be_visible()
    dialog = await retry_dialog(page)
    await button(dialog, "Retry 1 failed tenant").click()
    reason = dialog.locator("[name=text]")
    await expect(dialog).to_contain_text("Say why; it is on record with the run.")
    await expect(reason).to_be_focused()
    await expect(reason).to_have_attribute("aria-invalid", "true")
    assert await runs(plane) == 1
    await reason.fill("globex cannot bill")
    await button(dialog, "Retry 1 failed tenant").click()
    await expect(page.get_by_role("link", name="View run", exact=True)).to_be_focused()


async def test_a_session_that_has_ended_is_told_where_it_was_needed_and_costs_no_word(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    context = await stage.context(olga := await stage.operator())
    failed, going = await ended(plane, operator), await begun(plane, operator)
    page = await context.new_page()
    await page.goto(f"{RUNS}/{going}")
    other = await context.new_page()
    await other.goto(f"{RUNS}/{failed}")
    dialog = await retry_dialog(other)
    await dialog.locator("[name=text]").fill("a long story")
    stage.announce("404 ")
    await change(plane, "UPDATE system_sessions SET revoked_at = clock_timestamp()")
    await button(page, "Pause").click()
    await expect(page.locator("#refusal")).to_contain_text("Your session has ended")
    await expect(page.locator("#refusal").get_by_role("link", name="sign in here")).to_be_visible()
    await button(dialog, "Retry 1 failed tenant").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("Your session has ended")
    await stage.sign_in(context, olga)
    await other.reload()
    dialog = await retry_dialog(other)
    await expect(dialog.locator("[name=text]")).to_have_value("a long story")
    await button(dialog, "Retry 1 failed tenant").click()
    await expect(other.get_by_role("link", name="View run", exact=True)).to_be_focused()
