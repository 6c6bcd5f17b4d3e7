"""What operators ask of a run on its page by one click or key: pause, resume; and who has no button for it."""

import asyncio
import re

from playwright.async_api import expect

from opsplane.auth.actors import Actor
from opsplane.auth.capabilities import Capability
from opsplane.runbooks import control
from opsplane.runbooks.service import Plane
from opsplane.runs.control import Ask
from opsplane.tenants.models import Tenant
from tests import support
from tests.browser.conftest import Server, a_worker
from tests.browser.run_page import (
    OLGA,
    RIPE_S,
    asked,
    begun,
    button,
    ended,
    held_back,
    outcome,
    status,
    steps,
)
from tests.browser.stage import PLAIN, RUNS, Stage
from tests.browser.test_journeys import effects
from tests.browser.test_keyboard import press, tab_to

# Whoever waits with the one at work is held, or has been given back if the first one took long.
HALFWAY = re.compile("^(1 pending, 1 running|2 running), 1 repaired$")


async def test_a_run_is_paused_stays_locked_goes_on_when_resumed_and_does_nothing_twice(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor, gate: asyncio.Event
) -> None:
    run = (await support.start(plane, operator, PLAIN)).run
    page = await stage.page(f"{RUNS}/{run.id}", await stage.operator())
    await expect(button(page, "Pause")).to_be_hidden()
    drained = asyncio.create_task(support.drain(plane, run.id))
    await expect(page.locator("#grid-said")).to_have_text(HALFWAY)
    await button(page, "Pause").click()
    await expect(page.locator("#toasts")).to_contain_text("Asked to pauseWorkers end their chunk first.")
    await expect(status(page)).to_have_text("Pausing")
    await expect(page.locator("#asked")).to_contain_text(f"Pause asked by {OLGA}")
    gate.set()
    await drained
    await expect(status(page)).to_have_text("Paused")
    await expect(page.locator("#next-step.callout")).to_contain_text("Its scope stays locked.")
    before = await effects(plane)
    assert 40 <= sum(before.values()) < 120
    await asyncio.sleep(RIPE_S)
    async with a_worker(plane):
        await button(page, "Resume").click()
        await expect(page.locator("#toasts")).to_contain_text("Resumed")
        await expect(outcome(page)).to_have_text("Succeeded")
    assert await effects(plane) == {"acme": 40, "globex": 40, "initech": 40}
    by = f"by {OLGA}"
    said = ["Queued", "by tester", "Started", "Pause asked", by, "Paused", "Resumed", by, "Succeeded"]
    await expect(steps(page)).to_have_text(said)
    for name in ("Pause", "Resume", "Cancel…"):
        await expect(button(page, name)).to_be_hidden()
    await expect(page.locator("#asked")).to_be_hidden()


async def test_the_focus_follows_from_pause_to_resume_and_back_and_a_key_pressed_twice_asks_once(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor, server: Server
) -> None:
    run = await begun(plane, operator)
    page = await stage.page(f"{RUNS}/{run}", await stage.operator())
    server.asked.clear()
    await tab_to(page, button(page, "Pause"))
    await press(page, "Enter", "Enter")
    await expect(button(page, "Resume")).to_be_focused()
    await press(page, "Enter")
    await expect(status(page)).to_have_text("Paused")
    assert (asked(server, "pause"), asked(server, "resume")) == (1, 0)
    await asyncio.sleep(RIPE_S)
    await press(page, "Enter")
    await expect(button(page, "Pause")).to_be_focused()
    await expect(status(page)).to_have_text("Running")
    assert await page.evaluate("clicked") == []


async def test_a_double_click_on_pause_asks_once_and_does_not_resume(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor, server: Server
) -> None:
    run = await begun(plane, operator)
    page = await stage.page(f"{RUNS}/{run}", await stage.operator())
    server.asked.clear()
    await page.evaluate("performance.now = () => 1000")  # all of it within the moment of a double click
    await button(page, "Pause").dblclick()
    await expect(status(page)).to_have_text("Paused")
    await button(page, "Resume").click(no_wait_after=True)
    await expect(page.locator("#toasts")).to_contain_text("Asked to pause")
    assert (asked(server, "pause"), asked(server, "resume")) == (1, 0)


async def test_a_request_on_its_way_keeps_its_button_busy(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor, server: Server
) -> None:
    run = await begun(plane, operator)
    page = await stage.page(f"{RUNS}/{run}", await stage.operator())
    late = await held_back(page, "**/pause")
    await button(page, "Pause").click()
    await expect(button(page, "Pausing…")).to_have_attribute("aria-busy", "true")
    await button(page, "Pausing…").click()
    server.asked.clear()
    late.set()
    await expect(status(page)).to_have_text("Paused")
    assert asked(server, "pause") == 1


async def test_a_pause_that_comes_too_late_says_so_and_the_page_catches_up(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    run = await begun(plane, operator)
    page = await (await stage.context(await stage.operator())).new_page()
    stage.announce("ERR_.* GET .*/events", "409 POST .*/pause")
    await page.route("**/events", lambda route: route.abort())
    late = await held_back(page, "**/pause")
    await page.goto(f"{RUNS}/{run}")
    await button(page, "Pause").click()
    await support.drain(plane, run)
    late.set()
    await expect(page.locator("#refusal")).to_contain_text("A run that is completed cannot be paused")
    await expect(outcome(page)).to_have_text("Succeeded")
    await expect(page.locator("#items")).to_contain_text("Repaired")
    await expect(page.locator("#pill")).to_be_hidden()


async def test_who_may_not_run_runbooks_sees_no_button(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    failed, going = await ended(plane, operator), await begun(plane, operator)
    viewer = await stage.operator(Capability.RUNBOOKS_RUN)
    for run in (failed, going):
        page = await stage.page(f"{RUNS}/{run}", viewer)
        await expect(status(page)).to_be_visible()
        await expect(page.locator("[data-ask], dialog#cancel, dialog#retry")).to_have_count(0)
    await control.ask(plane, going, Ask.PAUSE, by=operator)
    await expect(status(page)).to_have_text("Paused")  # and the page lives without buttons
    await expect(page.locator("#asked")).to_contain_text("Pause asked by tester")


async def test_who_may_not_run_this_runbook_can_stop_it_but_not_retry_it(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    failed, going = await ended(plane, operator), await begun(plane, operator)
    olga = await stage.operator("platform.runbooks.test.effects")
    page = await stage.page(f"{RUNS}/{failed}", olga)
    await expect(outcome(page)).to_have_text("Partially succeeded")
    await expect(page.locator("[data-ask=retry-failed]")).to_have_count(0)
    await page.goto(f"{RUNS}/{going}")
    await button(page, "Pause").click()
    await expect(status(page)).to_have_text("Paused")


async def test_without_scripts_there_is_no_button_but_the_command(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    failed, going = await ended(plane, operator), await begun(plane, operator)
    context = await stage.context(await stage.operator(), java_script_enabled=False)
    page = await context.new_page()
    await page.goto(f"{RUNS}/{going}")
    await expect(page.locator("#detail noscript p")).to_contain_text(f"opsplane runs pause {going}")
    await expect(page.locator("[data-ask]:visible")).to_have_count(0)
    await page.goto(f"{RUNS}/{failed}")
    await expect(page.locator("#detail noscript p")).to_contain_text(f"opsplane runs retry-failed {failed}")
