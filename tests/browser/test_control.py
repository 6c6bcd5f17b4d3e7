# ruff: noqa: RUF001 - the pages write dashes as dashes
"""What operators ask of a run on its page: pause, resume, cancel, retry; and what the page shows when others do."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Locator, Page, Route, expect
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.auth.actors import Actor
from opsplane.auth.capabilities import Capability
from opsplane.runbooks import control, registry
from opsplane.runbooks.base import Impact
from opsplane.runbooks.service import Plane, Source
from opsplane.runs import leases, lifecycle
from opsplane.runs.control import Ask
from opsplane.tenants.models import Tenant
from opsplane.workers import supervisor
from tests import support, web
from tests.browser.conftest import Server
from tests.browser.stage import EVERYTHING, FAILS, PLAIN, RUNBOOKS, RUNS, SLOW, Stage, card
from tests.browser.test_journeys import change, effects, runs, why
from tests.browser.test_keyboard import press, tab_to

OLGA, OMAR = "olga@ops.test", "omar@ops.test"
TRANSIENT = "test.effects.transient"
REST = "have not ended: those not begun are left alone, those in work keep what their chunks have done so far."
RIPE_S = 0.6  # the page takes no click on a button that has only just come up


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """What a worker waits for within its first chunk of every tenant but acme."""
    opened = asyncio.Event()
    runbook: Any = registry.find(PLAIN)

    async def act(session: AsyncSession, tenant: uuid.UUID, first: int) -> None:
        if not await runbook.is_called(session, tenant, "acme"):
            await opened.wait()

    monkeypatch.setattr(runbook, "act", act)
    return opened


async def begun(plane: Plane, operator: Actor, key: str = PLAIN, *, held: bool = False) -> uuid.UUID:
    """A run under way; if it is held, by a worker in the middle of acme."""
    run = (await support.start(plane, operator, key)).run
    async with plane.db.transaction() as tx:
        await lifecycle.begin(tx.session, run.id)
    if held:
        async with plane.db.transaction() as tx:
            assert await leases.claim(tx.session, run.id, uuid.uuid4(), lease_s=600)
    return run.id


async def ended(plane: Plane, operator: Actor, key: str = FAILS) -> uuid.UUID:
    return await support.finished_run(plane, operator, key)


@asynccontextmanager
async def a_worker(plane: Plane) -> AsyncIterator[None]:
    stop = asyncio.Event()
    working = asyncio.create_task(supervisor.work(plane, stop))
    yield
    stop.set()
    await working


def button(page: Page | Locator, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def status(page: Page) -> Locator:
    return page.locator("[data-badge-slot=status]")


def outcome(page: Page) -> Locator:
    return page.locator("[data-badge-slot=outcome]")


async def bar(page: Page) -> float:
    """How much of it is full."""
    return float(await page.locator("#bar").evaluate("bar => bar.value"))


def steps(page: Page) -> Locator:
    return page.locator(".timeline [data-step] strong, .timeline [data-step] strong + .muted:not(:empty)")


def asked(server: Server, what: str) -> int:
    """How often the server was asked for it."""
    return sum(path.endswith(f"/{what}") for path in server.asked)


async def test_a_run_is_paused_stays_locked_goes_on_when_resumed_and_does_nothing_twice(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor, gate: asyncio.Event
) -> None:
    run = (await support.start(plane, operator, PLAIN)).run
    page = await stage.page(f"{RUNS}/{run.id}", await stage.operator())
    await expect(button(page, "Pause")).to_be_hidden()
    drained = asyncio.create_task(support.drain(plane, run.id))
    await expect(page.locator("#grid-said")).to_have_text("1 pending, 1 running, 1 repaired")
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
    late = asyncio.Event()

    async def wait(route: Route) -> None:
        await late.wait()
        await route.continue_()

    await page.route("**/pause", wait)
    await button(page, "Pause").click()
    await expect(button(page, "Pausing…")).to_have_attribute("aria-busy", "true")
    await button(page, "Pausing…").click()
    server.asked.clear()
    late.set()
    await expect(status(page)).to_have_text("Paused")
    assert asked(server, "pause") == 1


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
    late = asyncio.Event()

    async def wait(route: Route) -> None:
        await late.wait()
        await route.continue_()

    await page.route("**/cancel", wait)
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


async def test_a_pause_that_comes_too_late_says_so_and_the_page_catches_up(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    run = await begun(plane, operator)
    page = await (await stage.context(await stage.operator())).new_page()
    stage.announce("ERR_.* GET .*/events", "409 POST .*/pause")
    await page.route("**/events", lambda route: route.abort())
    late = asyncio.Event()

    async def wait(route: Route) -> None:
        await late.wait()
        await route.continue_()

    await page.route("**/pause", wait)
    await page.goto(f"{RUNS}/{run}")
    await button(page, "Pause").click()
    await support.drain(plane, run)
    late.set()
    await expect(page.locator("#refusal")).to_contain_text("A run that is completed cannot be paused")
    await expect(outcome(page)).to_have_text("Succeeded")
    await expect(page.locator("#items")).to_contain_text("Repaired")
    await expect(page.locator("#pill")).to_be_hidden()


async def test_what_another_operator_asks_appears_with_their_name(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    run = await begun(plane, operator)
    hers = await stage.page(f"{RUNS}/{run}", await stage.operator())
    his = await stage.page(f"{RUNS}/{run}", await stage.operator(email=OMAR))
    await button(hers, "Pause").focus()
    await button(his, "Pause").click()
    await expect(status(hers)).to_have_text("Paused")
    await expect(button(hers, "Resume")).to_be_focused()
    await expect(hers.locator("#asked")).to_contain_text(f"Pause asked by {OMAR}")
    await expect(hers.locator("#live")).to_have_text(f"Now paused, asked by {OMAR}")
    await expect(hers.locator("#toasts")).to_be_empty()
    await asyncio.sleep(RIPE_S)
    await button(hers, "Resume").click()
    await expect(status(his)).to_have_text("Running")
    await expect(steps(his)).to_have_text(
        ["Queued", "by tester", "Started", "Pause asked", f"by {OMAR}", "Paused", "Resumed", f"by {OLGA}"]
    )


async def retry_dialog(page: Page) -> Locator:
    await button(page, "Retry 1 failed tenant…").click()
    return page.get_by_role("dialog", name="Retry 1 failed tenant of Effects?")


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


async def test_a_tenant_that_waits_for_another_try_says_why_and_when(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    run = (await support.start(plane, operator, TRANSIENT)).run
    page = await stage.page(f"{RUNS}/{run.id}", await stage.operator())
    await support.drain(plane, run.id)
    trouble = page.locator("#items tbody tr", has_text="globex").locator("[data-field=failure]")
    said = re.compile(r"^try_again: not yet\. Failed once, to be tried again at \d\d:\d\d:\d\d · ")
    await expect(trouble).to_have_text(said)
    await page.reload()
    await expect(trouble).to_have_text(said)


async def test_a_paused_run_is_named_as_what_keeps_a_runbook_from_its_scope(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    run = await begun(plane, operator, SLOW)
    await control.ask(plane, run, Ask.PAUSE, by=operator)
    page = await stage.page(RUNBOOKS, await stage.operator())
    await expect(why(card(page, SLOW))).to_have_text("Locked by a paused run – view run")
    await why(card(page, SLOW)).get_by_role("link", name="view run").click()
    await expect(page).to_have_url(f"{stage.base_url}{RUNS}/{run}")
    await expect(status(page)).to_have_text("Paused")


async def test_the_timeline_remembers_everything_that_was_asked_live_and_after_a_reload(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    run = await begun(plane, operator, held=True)
    page = await stage.page(f"{RUNS}/{run}", olga := await stage.operator())
    for what in (Ask.PAUSE, Ask.RESUME, Ask.PAUSE, Ask.RESUME, Ask.CANCEL):
        await control.ask(plane, run, what, by=Actor.shell("omar"))
    asks = ["Pause asked", "Resumed", "Pause asked", "Resumed", "Cancel asked"]
    said = ["Queued", "by tester", "Started", *(part for one in asks for part in (one, "by omar"))]
    await expect(steps(page)).to_have_text(said)
    await page.reload()
    await expect(steps(page)).to_have_text(said)
    as_sent = await stage.page(f"{RUNS}/{run}", olga, java_script_enabled=False)
    await expect(steps(as_sent)).to_have_text(said)


async def test_a_run_names_the_retry_of_its_failed_tenants_and_how_it_ends(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    old = await ended(plane, operator)
    page = await stage.page(f"{RUNS}/{old}", await stage.operator())
    retried = page.locator(".retried")
    await expect(retried).to_be_hidden()
    again = (await control.retry_failed(plane, old, by=operator, source=Source.CLI)).run
    await expect(retried).to_have_text(f"Retry of its failed tenants: run {again.id} Running")
    await expect(button(page, "Retry 1 failed tenant…")).to_be_hidden()
    await support.drain(plane, again.id)
    await expect(retried).to_have_text(f"Retry of its failed tenants: run {again.id} Failed")
    await expect(button(page, "Retry 1 failed tenant…")).to_be_visible()
    assert await bar(page) == pytest.approx(100 / 120, abs=0.001)
    await page.reload()
    assert await bar(page) == pytest.approx(100 / 120, abs=0.001)
    await expect(page.locator(".facts [data-retried]")).to_have_text(re.compile(rf"run {again.id}\s+Failed"))
    await retried.get_by_role("link").click()
    await expect(page).to_have_url(f"{stage.base_url}{RUNS}/{again.id}")
    await expect(page.locator(".head")).to_contain_text("Retry of failed tenants")
    await page.goto(RUNS)
    await expect(page.locator(f'tr[data-id="{again.id}"]')).to_contain_text("Retry of failed tenants")
    await expect(page.locator(f'tr[data-id="{old}"]')).to_contain_text("All tenants")
