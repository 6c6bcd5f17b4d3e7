"""Every page in every state: no violation that axe knows, in light and dark, wide and narrow; nothing scrolls sideways."""

import json
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import Page, expect
from sqlalchemy import text

from opsplane.auth.actors import Actor
from opsplane.auth.capabilities import Capability
from opsplane.auth.roles import Role
from opsplane.runbooks import control
from opsplane.runbooks.service import Plane
from opsplane.runs import types
from opsplane.runs.control import Ask
from opsplane.runs.models import OperationRunFailure
from opsplane.tenants.models import Tenant
from tests import support, web
from tests.browser import test_alerts as alerting
from tests.browser import test_bell as ringing
from tests.browser.run_page import TRANSIENT, begun, button, retry_dialog
from tests.browser.stage import ALERTS, AUDIT, EVERYTHING, FAILS, PLAIN, RUNBOOKS, RUNS, Stage, card, look_again
from tests.browser.test_journeys import dialog_of, log_in, preflight
from tests.browser.test_people import NOBODY
from tests.integration.test_admin import SYNC, add_run
from tests.support import BACKFILL

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
LIGHT: Literal["light"] = "light"
DARK: Literal["dark"] = "dark"
WIDE, NARROW, NARROWEST = 1440, 390, 320
OPTIONS = {"runOnly": RULES, "resultTypes": ["violations"]}
AXE = "async (options) => (await axe.run(document, options)).violations"
TOO_WIDE = """() => {
  const wide = document.scrollingElement.scrollWidth;
  if (wide <= innerWidth) return [];
  const named = (one) => one.tagName + (one.id && `#${one.id}`) + `.${one.className.baseVal ?? one.className}`;
  return [`${wide} px`, ...[...document.querySelectorAll("body *")].filter((one) => one.getBoundingClientRect().right > innerWidth).map(named)];
}"""


@dataclass
class World:
    """What a state is made of."""

    stage: Stage
    plane: Plane
    tenants: list[Tenant]
    shell: Actor

    async def open(self, path: str, *lacking: str) -> Page:
        """A page of the system, as an operator sees it."""
        return await self.stage.page(path, await self.stage.operator(*lacking))

    async def customer(self, path: str) -> Page:
        """A page of the admin plane, as an owner sees it."""
        return await self.stage.page(path, await web.tenant_user(self.plane, Role.OWNER, self.tenants[0]))

    async def in_emergency(self, path: str) -> Page:
        """A page of the system, in break-glass."""
        page = await self.stage.page(path, await web.platform_user(self.plane, *EVERYTHING))
        answer = await page.evaluate(
            "fetch('/system/break-glass', {method: 'POST', headers: {'Content-Type': 'application/json'}, "
            "body: JSON.stringify({reason: 'the billing is down', minutes: 30})}).then((answer) => answer.status)"
        )
        assert answer == 200
        await page.reload()
        await expect(page.locator(".emergency")).to_contain_text("in 29:")
        return page

    async def run(self, key: str, *, drained: bool = True, tenant: str | None = None) -> str:
        """The path of a run."""
        run = (await support.start(self.plane, self.shell, key, tenant=tenant)).run
        if drained:
            await support.drain(self.plane, run.id)
        return f"{RUNS}/{run.id}"

    async def scalar(self, sql: str) -> Any:
        """One value of the database."""
        async with self.plane.db.transaction() as tx:
            return await tx.session.scalar(text(sql))


State = Callable[[World], Awaitable[Page]]
STATES: dict[str, State] = {}


@pytest.fixture(autouse=True)
def _operation_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(types, "_types", {SYNC.key: SYNC})


def state(make: State) -> State:
    STATES[make.__name__.replace("_", " ").strip()] = make
    return make


@state
async def login_(w: World) -> Page:
    return await w.stage.page("/system/login")


@state
async def login_with_an_error(w: World) -> Page:
    page = await w.stage.page("/system/login")
    w.stage.announce("401 POST")
    await log_in(page, password="wrong")
    await expect(page.get_by_role("alert")).to_be_visible()
    return page


@state
async def welcome(w: World) -> Page:
    return await w.stage.page("/")


@state
async def runbooks_fresh(w: World) -> Page:
    return await w.open(RUNBOOKS)


@state
async def runbooks_denied(w: World) -> Page:
    return await w.open(RUNBOOKS, "platform.runbooks.test.effects", Capability.RUNBOOKS_RUN)


@state
async def runbooks_after_a_preflight_and_nothing_to_do(w: World) -> Page:
    page = await w.open(RUNBOOKS)
    await preflight(page)
    await preflight(page, BACKFILL)
    return page


@state
async def runbooks_with_the_picker_open(w: World) -> Page:
    page = await w.open(RUNBOOKS)
    await card(page, PLAIN).get_by_label("Single tenant").check()
    await expect(card(page, PLAIN).get_by_role("option")).to_have_count(3)
    await page.keyboard.press("ArrowDown")
    return page


@state
async def runbooks_with_the_picker_empty(w: World) -> Page:
    page = await w.open(RUNBOOKS)
    await card(page, PLAIN).get_by_label("Single tenant").check()
    await card(page, PLAIN).get_by_role("combobox").fill("zzz")
    await expect(card(page, PLAIN).get_by_role("status")).to_have_text("No tenant matches “zzz”")
    return page


@state
async def runbooks_with_the_dialog_open(w: World) -> Page:
    page = await w.open(RUNBOOKS)
    await dialog_of(page)
    return page


@state
async def runbooks_with_errors_in_the_dialog(w: World) -> Page:
    page = await w.open(RUNBOOKS)
    dialog = await dialog_of(page, phrase="wrong", reason="")
    await dialog.get_by_role("button", name="Run on").click()
    await expect(dialog).to_contain_text("Say why")
    return page


@state
async def runbooks_with_a_refusal_in_the_dialog(w: World) -> Page:
    page = await w.open(RUNBOOKS)
    dialog = await dialog_of(page)
    await w.scalar("UPDATE preflights SET expires_at = clock_timestamp() RETURNING 1")
    w.stage.announce("409 POST")
    await dialog.get_by_role("button", name="Run on").click()
    await expect(dialog.get_by_role("button", name="Preflight again")).to_be_visible()
    return page


@state
async def runbooks_running_now_with_a_toast(w: World) -> Page:
    page = await w.open(RUNBOOKS)
    dialog = await dialog_of(page)
    await dialog.get_by_role("button", name="Run on").click()
    await expect(page.locator(".toast")).to_be_visible()
    await expect(card(page, PLAIN)).to_contain_text("Running now")
    return page


@state
async def runbooks_searched_in_vain(w: World) -> Page:
    page = await w.open(RUNBOOKS)
    await page.get_by_role("searchbox").fill("zzz")
    return page


@state
async def runbooks_after_the_session_ended(w: World) -> Page:
    page = await w.open(RUNBOOKS)
    await w.scalar("UPDATE system_sessions SET revoked_at = clock_timestamp() RETURNING 1")
    w.stage.announce("404 ")
    await card(page, PLAIN).get_by_role("button", name="Preflight").click()
    await expect(card(page, PLAIN).get_by_role("alert")).to_contain_text("session has ended")
    return page


@state
async def runs_empty(w: World) -> Page:
    return await w.open(RUNS)


@state
async def runs_filled(w: World) -> Page:
    await w.run(FAILS)
    await w.run(PLAIN, tenant="acme")
    await w.run(PLAIN, drained=False)
    return await w.open(f"{RUNS}?since=7d&limit=2")


@state
async def runs_filtered_to_nothing(w: World) -> Page:
    return await w.open(f"{RUNS}?outcome=failed&tenant=acme")


@state
async def runs_out_of_reach(w: World) -> Page:
    await w.run(PLAIN)
    page = await w.open(RUNS)
    w.stage.announce("ERR_INTERNET_DISCONNECTED")
    await page.context.set_offline(True)
    await look_again(page)
    await expect(page.locator("#pill")).to_contain_text("Retry")
    return page


@state
async def run_queued(w: World) -> Page:
    return await w.open(await w.run(PLAIN, drained=False))


@state
async def run_running(w: World) -> Page:
    page = await w.open(f"{RUNS}/{await begun(w.plane, w.shell)}")
    await expect(page.locator("#items tbody tr")).to_have_count(3)
    return page


@state
async def run_succeeded_with_its_json(w: World) -> Page:
    page = await w.open(await w.run(PLAIN))
    await page.locator("summary").click()
    await page.locator("#grid").press("ArrowRight")
    await expect(page.locator("#grid-said")).to_contain_text("acme")
    return page


@state
async def run_partially_succeeded(w: World) -> Page:
    return await w.open(f"{await w.run(FAILS)}?state=failed")


@state
async def run_failed(w: World) -> Page:
    path = await w.run(FAILS, tenant="globex")
    page = await w.open(path)
    await expect(page.locator("[data-badge-slot=outcome]")).to_have_text("Failed")
    return page


@state
async def run_pausing(w: World) -> Page:
    run = await begun(w.plane, w.shell, held=True)
    page = await w.open(f"{RUNS}/{run}")
    await button(page, "Pause").click()
    await expect(page.locator("#toasts")).to_contain_text("Asked to pause")
    await expect(button(page, "Resume")).to_be_visible()
    return page


@state
async def run_paused(w: World) -> Page:
    run = await begun(w.plane, w.shell)
    await control.ask(w.plane, run, Ask.PAUSE, by=w.shell)
    return await w.open(f"{RUNS}/{run}")


@state
async def run_with_the_dialog_that_cancels(w: World) -> Page:
    page = await w.open(f"{RUNS}/{await begun(w.plane, w.shell)}")
    await button(page, "Cancel…").click()
    return page


@state
async def run_with_the_dialog_of_a_run_cancelled_by_somebody_else(w: World) -> Page:
    run = await begun(w.plane, w.shell, held=True)
    page = await w.open(f"{RUNS}/{run}")
    await button(page, "Cancel…").click()
    await control.ask(w.plane, run, Ask.CANCEL, by=w.shell)
    await expect(button(page.get_by_role("dialog"), "Close")).to_be_visible()
    return page


@state
async def run_cancelled(w: World) -> Page:
    run = await begun(w.plane, w.shell)
    await control.ask(w.plane, run, Ask.CANCEL, by=w.shell)
    return await w.open(f"{RUNS}/{run}")


@state
async def run_with_a_tenant_that_waits_for_another_try(w: World) -> Page:
    return await w.open(await w.run(TRANSIENT))


@state
async def run_with_the_dialog_that_retries_and_an_error(w: World) -> Page:
    page = await w.in_emergency(await w.run(FAILS))
    dialog = await retry_dialog(page)
    await button(dialog, "Retry 1 failed tenant").click()
    await expect(dialog).to_contain_text("Say why")
    return page


@state
async def run_with_a_refused_retry(w: World) -> Page:
    page = await w.open(await w.run(FAILS))
    await w.run(FAILS, drained=False)
    w.stage.announce("409 POST")
    dialog = await retry_dialog(page)
    await button(dialog, "Retry 1 failed tenant").click()
    await expect(dialog.get_by_role("link", name="View run")).to_be_visible()
    return page


@state
async def run_that_is_a_retry(w: World) -> Page:
    page = await w.open(await w.run(FAILS))
    dialog = await retry_dialog(page)
    await button(dialog, "Retry 1 failed tenant").click()
    await page.get_by_role("link", name="View run", exact=True).click()
    await expect(page.locator("main")).to_contain_text("Retry of")
    return page


@state
async def audit(w: World) -> Page:
    await w.run(PLAIN)
    page = await w.open(f"{AUDIT}?action=platform.&limit=1")
    await page.locator("summary").first.click()
    return page


@state
async def audit_filtered_to_nothing(w: World) -> Page:
    return await w.open(f"{AUDIT}?actor=nobody")


@state
async def forbidden(w: World) -> Page:
    w.stage.announce("403 GET")
    return await w.open(AUDIT, Capability.AUDIT_VIEW)


@state
async def not_found(w: World) -> Page:
    w.stage.announce("404 GET")
    return await w.open(f"{RUNS}/{NOBODY}")


@state
async def unprocessable(w: World) -> Page:
    w.stage.announce("422 GET")
    return await w.open(f"{RUNS}?status=nonsense")


@state
async def break_glass_dialog(w: World) -> Page:
    page = await w.stage.page(RUNS, await web.platform_user(w.plane, *EVERYTHING))
    await page.get_by_role("button", name="Account of").click()
    await page.get_by_role("button", name="Break glass…").click()
    return page


@state
async def break_glass_banner(w: World) -> Page:
    return await w.in_emergency(RUNS)


@state
async def account_menu(w: World) -> Page:
    page = await w.open(RUNS)
    await page.get_by_role("button", name="Account of").click()
    return page


@state
async def notifications(w: World) -> Page:
    page = await w.open(RUNS)
    await page.get_by_role("button", name="Notifications").click()
    return page


@state
async def notifications_with_some_unread_and_older_ones(w: World) -> Page:
    olga = await w.stage.operator()
    await ringing.tell(w.plane, olga, w.tenants[0], 23)
    page = await w.stage.page(RUNS, olga)
    await page.get_by_role("button", name="Notifications").click()
    await page.get_by_role("button", name="Older").focus()
    await page.locator("#bell li a").first.evaluate("link => link.dispatchEvent(new Event('click', {bubbles: true}))")
    await expect(ringing.bell(page, "22")).to_be_visible()
    return page


@state
async def a_toast_of_a_run_that_failed(w: World) -> Page:
    olga = await w.stage.operator()
    page = await ringing.awake(await w.stage.page(RUNBOOKS, olga))
    dialog = await dialog_of(page, FAILS)
    await dialog.get_by_role("button", name="Run on").click()
    await expect(page.locator(".toast")).to_be_visible()
    await support.drain(w.plane, await w.scalar("SELECT id FROM operation_runs"))
    await look_again(page)
    await expect(page.locator(".toast")).to_have_count(2)
    return page


async def alerts_of(w: World) -> Page:
    """The page of alerts with something of everything."""
    teams = await alerting.add_destination(
        w.plane, "Teams ops", kind="teams", address=f"https://{'prod-12.' * 8}test/…"
    )
    await alerting.add_destination(w.plane, "Off", kind="email", address="ops@example.com, +2", enabled=False)
    night = {"quiet_from": "22:00", "quiet_until": "07:00", "quiet_zone": "Europe/Berlin"}
    values = {"tenants": ["a_tenant_of_one_word" * 4], "runbooks": ["gone.runbook"], "cooldown_s": 3600, **night}
    await alerting.add_rule(w.plane, "At night", destination_ids=[teams], enabled=False, **values)
    await alerting.fails(w.plane, w.shell, 3)
    await w.scalar(
        "WITH one AS (SELECT id, row_number() OVER () AS n FROM alert_deliveries) "
        "UPDATE alert_deliveries d SET attempts = 2, last_error = 'it answered 503', "
        "status = (ARRAY['pending', 'dead', 'held'])[n] FROM one WHERE one.id = d.id RETURNING 1"
    )
    return await w.open(f"{ALERTS}?limit=2")


@state
async def alerts_empty(w: World) -> Page:
    return await w.open(ALERTS)


@state
async def alerts_filled(w: World) -> Page:
    return await alerts_of(w)


@state
async def alerts_filtered_to_nothing_and_without_rules(w: World) -> Page:
    page = await w.open(f"{ALERTS}?status=dead")
    await page.get_by_role("button", name="Delete rule").click()
    await page.get_by_role("button", name="Delete rule", exact=True).click()
    await expect(page.locator("#toasts")).to_contain_text("Deleted")
    return page


@state
async def alerts_with_tests_that_did_and_did_not_arrive(w: World) -> Page:
    page = await alerts_of(w)
    answers: list[dict[str, Any]] = [
        {"delivered": True, "error": None, "took_ms": 400},
        {"delivered": False, "error": "no", "took_ms": 9},
    ]
    for name, answer in zip(("Teams ops", "Off"), answers, strict=True):
        async with alerting.answered(page, "/test", answer):
            await page.get_by_role("button", name=f"Send a test to {name}").click()
            await expect(alerting.destination(page, name).get_by_role("status")).to_contain_text("elivered")
    return page


@state
async def alerts_with_the_dialog_of_a_destination_and_errors(w: World) -> Page:
    page = await w.open(ALERTS)
    dialog = await alerting.dialog(page, "Add destination…")
    await alerting.submit(dialog)
    await expect(dialog).to_contain_text("Enter the address.")
    return page


@state
async def alerts_with_the_dialog_of_a_webhook_and_a_refusal(w: World) -> Page:
    await alerting.add_destination(w.plane, "Incidents")
    page = await w.open(ALERTS)
    dialog = await alerting.dialog(page, "Edit destination Incidents")
    w.stage.announce("409 PATCH")
    async with alerting.answered(page, "/system/alerts/destinations/*", {"title": "Conflict", "detail": "No."}, 409):
        await alerting.submit(dialog)
        await expect(dialog.get_by_role("alert")).to_contain_text("No.")
    return page


@state
async def alerts_with_the_dialog_of_mail(w: World) -> Page:
    page = await w.open(ALERTS)
    dialog = await alerting.dialog(page, "Add destination…")
    await dialog.get_by_label("Kind").select_option(label="E-mail")
    return page


@state
async def alerts_with_the_secret_of_a_webhook(w: World) -> Page:
    page = await w.open(ALERTS)
    dialog = await alerting.dialog(page, "Add destination…")
    await dialog.get_by_label("Name").fill("Incidents")
    await dialog.get_by_label("Webhook URL").fill(alerting.URL)
    added = {"id": str(NOBODY), "name": "Incidents", "secret": "whsec_" + "x" * 44}
    async with alerting.answered(page, "/system/alerts/destinations", added, 201):
        await alerting.submit(dialog)
        await expect(page.get_by_role("dialog", name="The secret")).to_be_visible()
    return page


@state
async def alerts_with_the_dialog_of_a_rule_and_errors(w: World) -> Page:
    page = await alerts_of(w)
    dialog = await alerting.dialog(page, "Edit rule At night")
    await dialog.get_by_label("Name").fill("")
    await dialog.get_by_label("Failed runs").uncheck()
    await dialog.get_by_label("Minutes").fill("")
    await alerting.submit(dialog)
    await expect(dialog).to_contain_text("Pick at least one.")
    return page


@state
async def alerts_with_the_dialog_that_deletes(w: World) -> Page:
    page = await alerts_of(w)
    await alerting.dialog(page, "Delete destination Teams ops")
    return page


@state
async def help_(w: World) -> Page:
    page = await w.open(RUNS)
    await page.keyboard.press("?")
    return page


@state
async def admin_login(w: World) -> Page:
    return await w.stage.page("/admin/login")


@state
async def admin_findings_empty(w: World) -> Page:
    return await w.customer("/admin/findings")


@state
async def admin_findings_filled(w: World) -> Page:
    for severity, status in (("critical", "new"), ("high", "triaged"), ("medium", "in_progress"), ("low", "resolved")):
        values = {"severity": severity, "status": status, "title": "a_very_long_title_of_one_word" * 5}
        await support.add_findings(w.plane, w.tenants[0], 1, **values)
    return await w.customer("/admin/findings?limit=3")


@state
async def admin_finding(w: World) -> Page:
    await support.add_findings(w.plane, w.tenants[0], 1, external_ref="https://scanner.example/" + "r" * 120)
    return await w.customer(f"/admin/findings/{await w.scalar('SELECT id FROM findings')}")


@state
async def admin_operations_empty(w: World) -> Page:
    return await w.customer("/admin/operations")


@state
async def admin_operations_filled(w: World) -> Page:
    failures = [OperationRunFailure(item_key="acme", code="timed_out", message="for us only")]
    await an_operation(w, outcome="failed", failures=failures)
    await an_operation(w)
    return await w.customer("/admin/operations?outcome=failed&limit=1")


@state
async def admin_operation(w: World) -> Page:
    path = await an_operation(
        w, outcome="partially_succeeded", summary_counts={"total": 9, "processed": 9, "failed": 1}
    )
    return await w.customer(path)


async def an_operation(w: World, failures: Sequence[OperationRunFailure] = (), **values: Any) -> str:
    run_id = await add_run(w.plane, SYNC.key, w.tenants[0], **values)
    async with w.plane.db.transaction() as tx:
        for failure in failures:
            failure.run_id = uuid.UUID(run_id)
            tx.session.add(failure)
    return f"/admin/operations/{run_id}"


@pytest.mark.parametrize("name", STATES)
async def test_axe_finds_nothing_and_nothing_scrolls_sideways(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor, name: str
) -> None:
    page = await STATES[name](World(stage, plane, tenants, operator))
    await page.evaluate(AXE_SCRIPT)
    wrong: list[str] = []
    for width, theme in ((WIDE, LIGHT), (WIDE, DARK), (NARROW, DARK), (NARROW, LIGHT)):
        await page.set_viewport_size({"width": width, "height": 900})
        await page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        for violation in await page.evaluate(AXE, OPTIONS):
            where = [f"{node['target']} {node['failureSummary']}" for node in violation["nodes"][:3]]
            wrong.append(f"{theme} {width}: {violation['id']}: {where}")
    await page.set_viewport_size({"width": NARROWEST, "height": 700})
    wrong += [f"at {NARROWEST}: {one}" for one in await page.evaluate(TOO_WIDE)]
    assert wrong == [], json.dumps(wrong, indent=1)
