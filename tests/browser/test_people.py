"""Who comes in, what they may see and start, how they like it, and what an emergency looks like."""

import re

from playwright.async_api import expect

from opsplane.auth.capabilities import Capability
from opsplane.auth.roles import Role
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import web
from tests.browser.stage import AUDIT, EVERYTHING, PLAIN, RUNBOOKS, RUNS, Stage, card
from tests.browser.test_journeys import log_in, preflight

NOBODY = "00000000-0000-7000-8000-000000000000"


async def test_a_wrong_password_says_so_and_which_part_is_wrong_stays_untold(stage: Stage) -> None:
    await stage.operator()
    page = await stage.page("/system/login")
    stage.announce("401 POST /system/login")
    await log_in(page, password="wrong")
    alert = page.get_by_role("alert")
    await expect(alert).to_have_text("User name, password or one-time code is wrong.")
    await expect(alert).to_be_focused()
    await expect(page.get_by_label("E-mail")).to_have_value("olga@ops.test")
    await log_in(page)
    await expect(page).to_have_url(stage.base_url + RUNBOOKS)


async def test_too_many_attempts_say_how_long_to_wait(stage: Stage) -> None:
    page = await stage.page("/system/login")
    stage.announce("4(01|29) POST /system/login")
    for attempt in range(11):
        async with page.expect_response("**/system/login") as answered:
            await log_in(page, "nobody@ops.test", password="wrong")
        assert (await answered.value).status == (429 if attempt == 10 else 401)
        await expect(page.get_by_role("alert")).to_be_visible()
    await expect(page.get_by_role("alert")).to_have_text(re.compile(r"try again in \d+ seconds?\."))


async def test_only_paths_of_the_plane_itself_are_gone_to_after_a_login(stage: Stage) -> None:
    await stage.operator()
    page = await stage.page("/system/login")
    for elsewhere in (
        "https://evil.example/system/audit",
        "//evil.example/system/audit",
        "javascript:alert(1)",
        "/admin/findings",
    ):
        await page.goto(f"/system/login?next={elsewhere}")
        await log_in(page)
        await expect(page).to_have_url(stage.base_url + RUNBOOKS)
        await page.context.clear_cookies()
    await page.goto(f"/system/login?next={AUDIT}%3Factor=olga")
    await log_in(page)
    await expect(page).to_have_url(f"{stage.base_url}{AUDIT}?actor=olga")


async def test_a_customer_sees_their_findings_and_no_page_of_the_system(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    page = await stage.page("/admin/login")
    await web.tenant_user(plane, Role.OWNER, tenants[0], email="carla@customer.test")
    await log_in(page, "carla@customer.test")
    await expect(page).to_have_url(f"{stage.base_url}/admin/findings")
    assert "/system" not in await page.content()
    stage.announce("404 GET /system/", "404 .*/favicon.ico")  # the answer is no page, so it names no icon
    for path in (RUNBOOKS, RUNS, f"{RUNS}/{NOBODY}", AUDIT, "/system/no/such/page"):
        answer = await page.goto(path)
        assert answer is not None
        assert answer.status == 404, path
        assert "operator" not in await page.content()


async def test_a_page_somebody_may_not_see_names_the_capability_and_the_command(stage: Stage) -> None:
    olga = await stage.operator(Capability.AUDIT_VIEW)
    stage.announce(f"403 GET {AUDIT}")
    page = await stage.page(AUDIT, olga)
    await expect(page.locator("main")).to_contain_text("platform.audit.view")
    await expect(page.locator("main code").first).to_have_text("opsplane users grant olga@ops.test platform.audit.view")
    await expect(page.get_by_role("navigation", name="Main").get_by_role("link")).to_have_text(
        ["Runbooks", "Runs", "Alerts"]
    )


async def test_a_runbook_somebody_may_not_run_can_be_looked_at_and_says_what_is_lacking(
    stage: Stage, tenants: list[Tenant]
) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator("platform.runbooks.test.effects"))
    runbook = await preflight(page)
    run = runbook.get_by_role("button", name="Run…", description="You lack platform.runbooks.test.effects")
    await expect(run).to_have_attribute("aria-disabled", "true")
    await run.click(force=True)
    await expect(page.get_by_role("dialog")).to_be_hidden()


async def test_an_emergency_lends_the_runbooks_shows_itself_and_ends_at_a_click(
    stage: Stage, plane: Plane, tenants: list[Tenant]
) -> None:
    held = [one for one in EVERYTHING if one != "platform.runbooks.test.effects"]
    page = await stage.page(RUNBOOKS, await web.platform_user(plane, *held, email="eve@ops.test"))
    await expect(card(page, PLAIN)).to_contain_text("You lack platform.runbooks.test.effects")
    await page.get_by_role("button", name="Account of").click()
    await page.get_by_role("button", name="Break glass…").click()
    dialog = page.get_by_role("dialog", name="Break glass?")
    await dialog.get_by_label("Reason").fill("the billing is down")
    await dialog.get_by_label("Minutes").fill("5")
    await dialog.get_by_role("button", name="Break glass", exact=True).click()
    banner = page.get_by_role("region", name="Break-glass access")
    await expect(banner).to_contain_text("eve@ops.test: the billing is down")
    await expect(banner.locator("[data-countdown]")).to_have_text(re.compile(r"^in (5:00|4:[0-5]\d)$"))
    await expect(card(page, PLAIN)).not_to_contain_text("You lack")
    await page.goto(RUNS)
    await expect(banner).to_be_visible()
    await banner.get_by_role("button", name="End now").click()
    await expect(banner).to_be_hidden()
    await page.goto(RUNBOOKS)
    await expect(card(page, PLAIN)).to_contain_text("You lack")


async def test_theme_and_zone_last_from_page_to_page(stage: Stage, tenants: list[Tenant]) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    await page.get_by_role("button", name="Account of").click()
    await page.get_by_role("button", name="Theme: as the system").click()
    await page.get_by_role("button", name="Times: local").click()
    await preflight(page)
    await expect(card(page, PLAIN).locator("[data-checked] time")).to_contain_text("UTC")
    await page.goto(RUNS)
    root = page.locator("html")
    await expect(root).to_have_attribute("data-theme", "dark")
    await expect(root).to_have_attribute("data-zone", "utc")
    assert await page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"
    await page.get_by_role("button", name="Account of").click()
    await page.get_by_role("button", name="Theme: dark").click()
    await expect(root).to_have_attribute("data-theme", "light")
    await page.get_by_role("button", name="Times: UTC").click()
    await page.reload()
    await expect(root).to_have_attribute("data-theme", "light")
    await expect(root).to_have_attribute("data-zone", "local")


async def test_signing_out_ends_the_session_and_the_way_back(stage: Stage) -> None:
    page = await stage.page(RUNBOOKS, await stage.operator())
    await page.get_by_role("button", name="Account of").click()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page).to_have_url(f"{stage.base_url}/system/login")
    await page.go_back()
    await expect(page).to_have_url(re.compile("/system/login"))


async def test_a_session_about_to_end_warns_two_minutes_before_and_can_be_kept(stage: Stage) -> None:
    context = await stage.context(await stage.operator())
    page = await context.new_page()
    await page.clock.install()
    await page.goto(RUNS)
    await page.clock.fast_forward("13:05")
    alert = page.locator("#alert")
    await expect(alert).to_contain_text("You will be signed out in two minutes.")
    await alert.get_by_role("link", name="Stay signed in").click()
    await expect(alert).to_be_empty()
