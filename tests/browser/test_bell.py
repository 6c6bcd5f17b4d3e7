"""The bell: it rings for whoever started a run that failed, on whatever page is open, until they have read it."""

import asyncio
from typing import Any

import pytest
from playwright.async_api import Locator, Page, Route, expect

from opsplane.alerts import notifications as told
from opsplane.api import notifications
from opsplane.auth.actors import Actor, ActorKind
from opsplane.auth.models import PlatformUser
from opsplane.outbox import Kind, Severity
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import support
from tests.browser.conftest import Server
from tests.browser.stage import AUDIT, EVERYTHING, FAILS, PLAIN, RUNBOOKS, RUNS, Stage, card, look_again
from tests.browser.test_journeys import dialog_of
from tests.browser.test_keyboard import press, tab_to
from tests.browser.test_lists import add_runs

SAID = "Effects partially succeeded, all tenants"


def actor(who: PlatformUser) -> Actor:
    return Actor(kind=ActorKind.PLATFORM_USER, display=who.email, id=who.id, capabilities=frozenset(EVERYTHING))


async def failed_run(plane: Plane, who: PlatformUser, **values: Any) -> str:
    """The path of a run that somebody started, and that has failed."""
    return f"{RUNS}/{await support.finished_run(plane, actor(who), FAILS, **values)}"


async def tell(plane: Plane, who: PlatformUser, tenant: Tenant, count: int = 1) -> list[str]:
    """Tell somebody of so many runs; their paths, the oldest first."""
    runs = await add_runs(plane, tenant, count)
    async with plane.db.transaction() as tx:
        for number, run in enumerate(runs):
            payload = {"type_label": "Effects", "tenant": f"t{number:02}"}
            await told.notify(tx.session, who.id, run, Kind.RUN_FAILED, Severity.CRITICAL, payload)
    return [f"{RUNS}/{run}" for run in runs]


def bell(page: Page, unread: str) -> Locator:
    return page.get_by_role("button", name=f"Notifications, {unread} unread", exact=True)


def listed(page: Page) -> Locator:
    return page.locator("#bell li")


async def awake(page: Page) -> Page:
    """The page, once the bell's script has come."""
    await page.get_by_role("button", name="Notifications").click()
    await page.wait_for_load_state("networkidle")
    await page.keyboard.press("Escape")
    return page


async def test_the_bell_rings_on_the_open_page_when_my_run_fails_and_not_for_others(
    stage: Stage, plane: Plane, tenants: list[Tenant], server: Server
) -> None:
    olga, omar = await stage.operator(), await stage.operator(email="omar@ops.test")
    mine, other = [await awake(await stage.page(AUDIT, one)) for one in (olga, omar)]
    await expect(bell(mine, "none")).to_be_visible()
    path = await failed_run(plane, olga)
    server.asked.clear()
    await look_again(other)
    await look_again(mine)
    await expect(bell(mine, "1")).to_have_text("1")
    await expect(mine.locator("#live")).to_have_text(SAID)
    await expect(mine.locator("#toasts")).to_be_empty()
    await bell(mine, "1").click()
    await expect(listed(mine)).to_contain_text(["Warning"])
    await expect(listed(mine)).to_contain_text(["All tenants"])
    await expect(listed(mine).get_by_role("link")).to_have_attribute("href", path)
    await other.wait_for_load_state("networkidle")
    assert server.asked.count("/system/notifications") >= 2
    await expect(bell(other, "none")).to_be_visible()
    await expect(other.locator("#live")).to_be_empty()


async def test_a_page_that_is_left_alone_asks_by_itself_without_keeping_the_session_alive(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    olga = await stage.operator()
    context = await stage.context(olga)
    page = await context.new_page()
    await page.clock.install()
    await page.goto(AUDIT)
    async with page.expect_response("**/bell.js"):
        await page.clock.run_for(5500)
    await failed_run(plane, olga)
    async with page.expect_request("**/system/notifications?limit=20") as asked:
        await page.clock.run_for(16_000)
    assert (await asked.value).headers["x-opsplane-background"] == "1"
    await expect(bell(page, "1")).to_be_visible()


async def test_the_page_of_a_run_hears_of_another_run_by_its_own_stream(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor, server: Server
) -> None:
    olga = await stage.operator()
    queued = (await support.start(plane, operator, PLAIN)).run
    page = await awake(await stage.page(f"{RUNS}/{queued.id}", olga))
    await tell(plane, olga, tenants[0])
    server.asked.clear()
    await expect(bell(page, "1")).to_be_visible()
    assert server.asked.count("/system/notifications") == 1
    await expect(page.locator("#live")).to_have_text("Effects failed, tenant t00")


async def test_the_page_of_my_own_run_rings_when_it_ends_and_says_so_once(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    olga = await stage.operator()
    run = (await support.start(plane, actor(olga), FAILS)).run
    page = await awake(await stage.page(f"{RUNS}/{run.id}", olga))
    await support.drain(plane, run.id)
    await expect(bell(page, "1")).to_be_visible()
    await expect(page.locator("#live")).to_have_text("Completed: partially succeeded")


async def test_a_run_started_on_this_page_is_told_of_in_a_toast_too(
    stage: Stage, plane: Plane, tenants: list[Tenant], worker: None
) -> None:
    page = await awake(await stage.page(RUNBOOKS, await stage.operator()))
    dialog = await dialog_of(page, FAILS)
    await dialog.get_by_role("button", name="Run on").click()
    await expect(page.locator(".toast")).to_contain_text("Run queued")
    started = await page.locator(".toast a").get_attribute("href")
    await expect(card(page, FAILS)).to_contain_text("Partially succeeded")
    await look_again(page)
    toast = page.locator(".toast", has_text="Effects partially succeeded")
    await expect(toast.get_by_role("link", name="View run")).to_have_attribute("href", started or "")
    await expect(page.locator("#live")).to_have_text(SAID)
    await look_again(page)
    await page.wait_for_load_state("networkidle")
    await expect(toast).to_have_count(1)


async def test_nothing_is_told_of_a_run_that_waits_goes_on_or_succeeds(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    olga = await stage.operator()
    page = await awake(await stage.page(AUDIT, olga))
    run = (await support.start(plane, actor(olga), PLAIN)).run
    for _ in range(2):
        async with page.expect_response("**/system/notifications?limit=20"):
            await look_again(page)
        await support.drain(plane, run.id)
    await page.reload()
    await bell(page, "none").click()
    await expect(page.locator("#bell")).to_contain_text("Nothing to tell you.")
    await expect(listed(page)).to_have_count(0)


async def test_a_read_notification_stays_read_after_a_reload(stage: Stage, plane: Plane, tenants: list[Tenant]) -> None:
    olga = await stage.operator()
    path = await failed_run(plane, olga)
    page = await stage.page(AUDIT, olga)
    await bell(page, "1").click()
    await expect(listed(page).get_by_text("New")).to_be_visible()
    await listed(page).get_by_role("link").click()
    await expect(page).to_have_url(stage.base_url + path)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Effects")
    await page.wait_for_load_state("networkidle")
    await page.reload()
    await bell(page, "none").click()
    await expect(listed(page)).to_have_count(1)
    await expect(listed(page).get_by_text("New")).to_be_hidden()


async def test_a_run_opened_in_a_new_tab_is_read_in_both(stage: Stage, plane: Plane, tenants: list[Tenant]) -> None:
    olga = await stage.operator()
    path, other = await tell(plane, olga, tenants[0], 2)
    page = await awake(await stage.page(AUDIT, olga))
    await bell(page, "2").click()
    async with page.context.expect_page() as opened:
        await listed(page).get_by_role("link").last.click(button="middle")
    await expect(bell(page, "1")).to_be_visible()
    tab = await opened.value
    await expect(tab).to_have_url(stage.base_url + path)
    await expect(bell(tab, "1")).to_be_visible()
    await tab.goto(other)  # as from a mail, or by the menu of a link
    await expect(bell(tab, "none")).to_be_visible()
    await look_again(page)
    await expect(bell(page, "none")).to_be_visible()


async def test_what_is_asked_while_a_run_is_being_marked_as_read_does_not_bring_it_back(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    olga = await stage.operator()
    [path] = await tell(plane, olga, tenants[0])
    page, marked = await stage.page(AUDIT, olga), asyncio.Event()

    async def held(route: Route) -> None:
        await marked.wait()
        await route.continue_()

    await page.route("**/read", held)
    async with page.expect_request("**/read"):
        await page.goto(path)
    await expect(bell(page, "none")).to_be_visible()
    await page.wait_for_timeout(500)  # in which an answer would have come
    await expect(bell(page, "none")).to_be_visible()
    async with page.expect_response("**/system/notifications?limit=20"):
        marked.set()
    await expect(bell(page, "none")).to_be_visible()


async def test_all_are_marked_read_at_once_by_keyboard_and_the_focus_stays(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    olga = await stage.operator()
    await tell(plane, olga, tenants[0], 3)
    page = await stage.page(AUDIT, olga)
    await tab_to(page, bell(page, "3"))
    await press(page, "Enter", "Tab")
    await expect(page.get_by_role("button", name="Mark all read")).to_be_visible()
    await tab_to(page, page.get_by_role("button", name="Mark all read"), key="Shift+Tab")
    await press(page, "Enter")
    await expect(bell(page, "none")).to_be_visible()
    await expect(page.get_by_role("button", name="Mark all read")).to_be_hidden()
    await expect(listed(page).get_by_role("link").first).to_be_focused()
    await press(page, "Escape")
    await expect(bell(page, "none")).to_be_focused()
    await page.reload()
    await expect(bell(page, "none")).to_be_visible()
    assert await page.evaluate("clicked") == []


async def test_the_newest_twenty_are_listed_and_older_ones_follow_when_asked_for(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    olga = await stage.operator()
    await tell(plane, olga, tenants[0], 45)
    page = await stage.page(AUDIT, olga)
    await bell(page, "45").click()
    await expect(listed(page)).to_have_count(20)
    older = page.get_by_role("button", name="Older")
    await older.click()
    await expect(listed(page)).to_have_count(40)
    await expect(listed(page).get_by_role("link").nth(20)).to_be_focused()
    await older.click()
    await expect(listed(page)).to_have_count(45)
    await expect(older).to_be_hidden()
    assert await listed(page).locator("[data-scope]").all_text_contents() == [
        f"Tenant t{n:02}" for n in range(44, -1, -1)
    ]


async def test_what_is_marked_as_read_stays_so_though_an_older_answer_comes_late(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    olga = await stage.operator()
    await tell(plane, olga, tenants[0], 2)
    page = await awake(await stage.page(AUDIT, olga))
    late = asyncio.Event()

    async def held(route: Route) -> None:
        answer = await route.fetch()
        await late.wait()
        await route.fulfill(response=answer)

    await page.route("**/system/notifications?limit=20", held, times=1)
    async with page.expect_request("**/system/notifications?limit=20"):
        await look_again(page)
    await bell(page, "2").click()
    await page.get_by_role("button", name="Mark all read").click()
    await expect(bell(page, "none")).to_be_visible()
    await page.evaluate(
        """globalThis.counts = [];
        new MutationObserver(() => counts.push(document.querySelector("#bell").dataset.unread))
          .observe(document.querySelector("#bell"), { attributes: true })"""
    )
    async with page.expect_response("**/system/notifications?limit=20"):
        late.set()
    await page.wait_for_load_state("networkidle")
    assert "2" not in await page.evaluate("counts")
    await expect(bell(page, "none")).to_be_visible()


async def test_without_javascript_the_bell_opens_and_lists_what_is_new(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    olga = await stage.operator()
    path = await failed_run(plane, olga)
    page = await stage.page(AUDIT, olga, java_script_enabled=False)
    await bell(page, "1").click()
    await expect(listed(page)).to_contain_text(["Effects partially succeeded"])
    await expect(page.get_by_role("button", name="Mark all read")).to_be_hidden()
    await listed(page).get_by_role("link").click()
    await expect(page).to_have_url(stage.base_url + path)


async def test_a_page_comes_without_its_bell_if_that_cannot_be_read(
    stage: Stage, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("no such table")

    monkeypatch.setattr(notifications, "list_notifications", broken)
    page = await stage.page(RUNBOOKS, await stage.operator())
    await expect(page.get_by_role("heading", level=1)).to_have_text("Runbooks")
    await expect(card(page, PLAIN)).to_be_visible()
    await expect(page.get_by_role("button", name="Notifications")).to_have_count(0)
