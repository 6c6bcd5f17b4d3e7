"""The page of alerts: destinations, rules and deliveries, as somebody who manages them meets it."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Locator, Page, Route, expect
from sqlalchemy import insert, select, update

from opsplane.alerts import routing
from opsplane.alerts.models import AlertDelivery, AlertDestination, AlertRule, DeliveryStatus
from opsplane.auth.actors import Actor
from opsplane.auth.capabilities import Capability
from opsplane.db import new_id
from opsplane.outbox import Kind
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import support
from tests.browser.conftest import Server
from tests.browser.stage import ALERTS, FAILS, RUNS, Stage, look_again
from tests.browser.test_keyboard import press, tab_to

URL = "https://hooks.example.com/services/T0/B0"
USUAL = "Everything that needs somebody"


async def add_destination(plane: Plane, name: str, **values: Any) -> uuid.UUID:
    made = {"id": new_id(), "name": name, "kind": "webhook", "address": "https://hooks.example.com/…", "target": b""}
    async with plane.db.transaction() as tx:
        await tx.session.execute(insert(AlertDestination).values(made | values))
    return uuid.UUID(str(made["id"]))


async def add_rule(plane: Plane, name: str, **values: Any) -> None:
    made = {"id": new_id(), "name": name, "events": [Kind.RUN_FAILED], "min_severity": "info"}
    async with plane.db.transaction() as tx:
        await tx.session.execute(insert(AlertRule).values(made | values))


async def fails(plane: Plane, operator: Actor, count: int = 1) -> list[str]:
    """The paths of runs that fail, and are on their way to whoever a rule names."""
    paths = [f"{RUNS}/{await support.finished_run(plane, operator, FAILS)}" for _ in range(count)]
    async with plane.db.transaction() as tx:
        await routing.route(tx.session)
    return paths


async def become(plane: Plane, status: DeliveryStatus, **values: Any) -> None:
    """What a courier would make of all deliveries."""
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(AlertDelivery).values(status=status, **values))


async def every(plane: Plane, table: Any) -> list[Any]:
    async with plane.db.reading() as session:
        return list(await session.scalars(select(table).order_by(table.created_at)))


def destination(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name="Destinations").get_by_role("listitem", name=name, exact=True)


def rule(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name="Rules").get_by_role("listitem", name=name, exact=True)


def rows(page: Page) -> Locator:
    return page.locator("#deliveries tbody tr")


async def dialog(page: Page, opener: str) -> Locator:
    """The dialog that a button opens."""
    await page.get_by_role("button", name=opener, exact=True).click()
    return page.get_by_role("dialog")


async def submit(dialog: Locator) -> None:
    await dialog.locator("[type=submit]").click()


@asynccontextmanager
async def answered(page: Page, path: str, body: dict[str, Any], status: int = 200) -> AsyncIterator[list[Any]]:
    """Answer for the server once, and keep what was sent."""
    sent: list[Any] = []

    async def fulfil(route: Route) -> None:
        sent.append(route.request.post_data_json)
        await route.fulfill(status=status, json=body)

    await page.route(f"**{path}", fulfil, times=1)
    yield sent
    await page.unroute(f"**{path}")


async def test_without_the_capability_there_is_no_page_of_alerts_and_the_refusal_names_it(stage: Stage) -> None:
    stage.announce(f"403 GET {ALERTS}")
    page = await stage.page(ALERTS, await stage.operator(Capability.ALERTS_MANAGE))
    await expect(page.locator("main")).to_contain_text("platform.alerts.manage")
    await expect(page.get_by_role("link", name="Alerts")).to_have_count(0)
    await expect(page.get_by_role("heading", name="Destinations")).to_have_count(0)


async def test_an_empty_page_says_what_to_do_next(stage: Stage, plane: Plane) -> None:
    page = await stage.page(ALERTS, await stage.operator())
    for said in ("A run that fails reaches nobody yet", "Nothing has been sent yet"):
        await expect(page.locator("main")).to_contain_text(said)
    await expect(rule(page, USUAL)).to_contain_text("Failed and stalled runs")
    await expect(rule(page, USUAL)).to_contain_text("→ every destination")


async def test_a_webhook_is_added_its_secret_is_shown_once_and_its_address_never_again(
    stage: Stage, plane: Plane
) -> None:
    page = await stage.page(ALERTS, await stage.operator())
    adding = await dialog(page, "Add destination…")
    await expect(adding.get_by_label("Name")).to_be_focused()
    await adding.get_by_label("Name").fill("Incidents")
    for kind, field in (
        ("Microsoft Teams", "Webhook URL of a workflow"), ("E-mail", "Recipients"),
        ("Other service", "URL of the service"), ("Webhook", "HTTPS address"),
    ):  # fmt: skip
        await adding.get_by_label("Kind").select_option(label=kind)
        await expect(adding.get_by_label(field)).to_be_visible()
    await expect(adding.get_by_label("Recipients")).to_be_hidden()
    await adding.get_by_label("HTTPS address").fill(URL)

    async def with_secret(route: Route) -> None:
        answer = await route.fetch()
        await route.fulfill(response=answer, json=await answer.json() | {"secret": "whsec_once"})

    await page.route("**/system/alerts/destinations", with_secret)
    await submit(adding)
    secret = page.get_by_role("dialog", name="The secret of this webhook")
    await expect(secret.locator("code")).to_have_text("whsec_once")
    await secret.get_by_role("button", name="Copy").click()
    await expect(page.locator("#toasts")).to_contain_text("whsec_once")
    await secret.get_by_role("button", name="I have it").click()
    await expect(destination(page, "Incidents")).to_contain_text("Webhook")
    await expect(destination(page, "Incidents")).to_be_focused()
    await expect(page.locator("#toasts")).to_contain_text("Destination added")
    assert "whsec_once" not in await page.content()
    assert [one.kind for one in await every(plane, AlertDestination)] == ["webhook"]


async def test_what_is_missing_is_said_beside_its_field_and_what_the_server_refuses_in_its_own_words(
    stage: Stage, plane: Plane
) -> None:
    await add_destination(plane, "Incidents")
    page = await stage.page(ALERTS, await stage.operator())
    adding = await dialog(page, "Add destination…")
    await submit(adding)
    await expect(adding.get_by_label("Name")).to_have_accessible_description("Give it a name.")
    await expect(adding.get_by_label("Name")).to_be_focused()
    await expect(adding).to_contain_text("Enter the address.")
    await adding.get_by_label("Name").fill("Incidents")
    await adding.get_by_label("Kind").select_option(label="E-mail")
    await adding.get_by_label("Recipients").fill("ops@example.com\nduty@example.com, ops2@example.com")
    refusal = {"title": "Conflict", "detail": "There is one named 'Incidents' already; pick another name."}
    stage.announce("409 POST")
    async with answered(page, "/system/alerts/destinations", refusal, 409) as sent:
        await submit(adding)
        await expect(adding.get_by_role("alert")).to_contain_text("pick another name")
    recipients = ["ops@example.com", "duty@example.com", "ops2@example.com"]
    assert sent == [{"name": "Incidents", "target": {"kind": "email", "recipients": recipients}}]
    await expect(adding.get_by_label("Recipients")).to_have_value("ops@example.com\nduty@example.com, ops2@example.com")
    await press(page, "Escape")
    await expect(adding).to_contain_text("Press Esc once more to close.")
    await press(page, "Escape")
    await expect(adding).to_be_hidden()


async def test_a_test_message_says_in_place_whether_it_arrived(stage: Stage, plane: Plane) -> None:
    id_ = await add_destination(plane, "Incidents")
    page = await stage.page(ALERTS, await stage.operator())
    test = page.get_by_role("button", name="Send a test to Incidents")
    path = f"/system/alerts/destinations/{id_}/test"
    async with answered(page, path, {"delivered": True, "error": None, "took_ms": 412}) as sent:
        await test.dblclick()
        await expect(destination(page, "Incidents")).to_contain_text("Delivered in 0.4 s.")
        assert len(sent) == 1
    async with answered(page, path, {"delivered": False, "error": "it answered 404", "took_ms": 80}):
        await test.click()
        await expect(destination(page, "Incidents").get_by_role("status")).to_have_text(
            "Not delivered: it answered 404"
        )
    stage.announce("503 POST")
    async with answered(page, path, {"title": "Service Unavailable", "detail": "Try again."}, 503):
        await test.click()
        await expect(destination(page, "Incidents").get_by_role("alert")).to_contain_text("Try again.")


async def test_a_destination_gets_another_name_without_its_address_being_typed_again(
    stage: Stage, plane: Plane
) -> None:
    await add_destination(plane, "Incidents", target=b"kept")
    page = await stage.page(ALERTS, await stage.operator())
    editing = await dialog(page, "Edit destination Incidents")
    await expect(editing).to_contain_text("It goes to https://hooks.example.com/… until you enter another address.")
    await editing.get_by_label("Name").fill("On duty")
    await submit(editing)
    await expect(destination(page, "On duty")).to_be_focused()
    (kept,) = await every(plane, AlertDestination)
    assert (kept.name, kept.target) == ("On duty", b"kept")
    editing = await dialog(page, "Edit destination On duty")
    await editing.get_by_label("Kind").select_option(label="E-mail")
    await submit(editing)
    await expect(editing).to_contain_text("Enter at least one address.")
    await editing.get_by_label("Kind").select_option(label="Webhook")
    await editing.get_by_label("HTTPS address").fill(URL)
    async with page.expect_request(lambda request: request.method == "PATCH") as sent:
        await submit(editing)
    assert (await sent.value).post_data_json == {"name": "On duty", "target": {"kind": "webhook", "url": URL}}


async def test_a_destination_is_switched_off_and_on_and_the_focus_stays_with_it(stage: Stage, plane: Plane) -> None:
    await add_destination(plane, "Incidents")
    page = await stage.page(ALERTS, await stage.operator())
    await page.get_by_role("button", name="Switch off destination Incidents").click()
    await expect(page.locator("#toasts")).to_contain_text("Switched off")
    await expect(destination(page, "Incidents").get_by_text("Off", exact=True)).to_be_visible()
    await expect(destination(page, "Incidents")).to_be_focused()
    assert not (await every(plane, AlertDestination))[0].enabled
    await page.get_by_role("button", name="Switch on destination Incidents").click()
    await expect(page.get_by_role("button", name="Switch off destination Incidents")).to_be_visible()
    assert (await every(plane, AlertDestination))[0].enabled


async def test_deleting_a_destination_says_what_happens_and_happens_once(
    stage: Stage, plane: Plane, server: Server
) -> None:
    id_ = await add_destination(plane, "Incidents")
    await add_rule(plane, "Only there", destination_ids=[id_])
    page = await stage.page(ALERTS, await stage.operator())
    deleting = await dialog(page, "Delete destination Incidents")
    await expect(deleting).to_contain_text("Rules that name it alone are switched off")
    await expect(deleting.get_by_role("button", name="Cancel")).to_be_focused()
    server.asked.clear()
    await deleting.locator("[type=submit]").dblclick()
    await expect(page.locator("#toasts")).to_contain_text("Deleted")
    assert server.asked.count(f"{ALERTS}/destinations/{id_}") == 1
    await expect(destination(page, "Incidents")).to_have_count(0)
    await expect(rule(page, "Only there").get_by_text("Off", exact=True)).to_be_visible()
    assert await every(plane, AlertDestination) == []


async def test_a_rule_is_made_changed_switched_off_and_deleted_without_a_pointer(stage: Stage, plane: Plane) -> None:
    id_ = await add_destination(plane, "Incidents")
    page = await stage.page(ALERTS, await stage.operator(), timezone_id="Europe/Berlin")
    await tab_to(page, page.get_by_role("button", name="Add rule…"))
    await press(page, "Enter")
    await page.keyboard.type("At night")
    making = page.get_by_role("dialog")
    await tab_to(page, making.get_by_label("Succeeded runs"))
    await press(page, "Space")
    await tab_to(page, making.get_by_label("How bad"))
    await press(page, "ArrowDown")
    await tab_to(page, making.get_by_label("Every destination"))
    await press(page, "Space")
    await expect(making.get_by_label("Incidents")).to_be_visible()
    await press(page, "Tab", "Space")
    await tab_to(page, making.get_by_role("textbox", name="Tenants"))
    await page.keyboard.type("acme, globex")
    await tab_to(page, making.get_by_label("Minutes"))
    await press(page, "ControlOrMeta+a")
    await page.keyboard.type("60")
    await tab_to(page, making.get_by_label("Quiet hours"))
    await press(page, "Space")
    await expect(making.get_by_label("Time zone")).to_have_value("Europe/Berlin")
    await press(page, "Enter")
    await expect(rule(page, "At night")).to_be_focused()
    said = "Failed, stalled and succeeded runs of the tenants acme and globex, warnings and above → Incidents; "
    await expect(rule(page, "At night")).to_contain_text(
        said + "the same news once in 1 hour; held from 22:00 until 07:00 Europe/Berlin"
    )
    kept = (await every(plane, AlertRule))[-1]
    assert (kept.destination_ids, kept.tenants, kept.cooldown_s) == ([id_], ["acme", "globex"], 3600)
    await tab_to(page, page.get_by_role("button", name="Edit rule At night"))
    await press(page, "Enter")
    editing = page.get_by_role("dialog", name="Edit At night")
    await expect(editing.get_by_role("textbox", name="Tenants")).to_have_value("acme, globex")
    await tab_to(page, editing.get_by_label("Quiet hours"))
    await press(page, "Space")
    await press(page, "Enter")
    await expect(rule(page, "At night")).to_be_focused()
    await expect(rule(page, "At night")).not_to_contain_text("quiet")
    await tab_to(page, page.get_by_role("button", name="Switch off rule At night"))
    await press(page, "Enter")
    await expect(rule(page, "At night").get_by_text("Off", exact=True)).to_be_visible()
    await tab_to(page, page.get_by_role("button", name="Delete rule At night"))
    await press(page, "Enter", "Tab", "Enter")
    await expect(rule(page, "At night")).to_have_count(0)
    await expect(page.locator("#toasts")).to_contain_text("Deleted")
    assert await page.evaluate("clicked") == []


async def test_a_rule_that_cannot_be_is_refused_beside_its_form_and_nothing_typed_is_lost(
    stage: Stage, plane: Plane
) -> None:
    page = await stage.page(ALERTS, await stage.operator())
    making = await dialog(page, "Add rule…")
    await making.get_by_label("Every destination").uncheck()
    await making.get_by_label("Minutes").fill("")
    await submit(making)
    for said in ("Give it a name.", "Pick at least one, or every destination.", "Enter a number of minutes"):
        await expect(making).to_contain_text(said)
    await making.get_by_label("Every destination").check()
    await making.get_by_label("Name").fill(USUAL)
    await making.get_by_label("Minutes").fill("1.5")
    stage.announce("409 POST", "422 POST")
    await submit(making)
    await expect(making.get_by_role("alert")).to_contain_text("pick another name")
    await making.get_by_label("Name").fill("Another")
    await making.get_by_label("Quiet hours").check()
    await making.get_by_label("Time zone").fill("Europe/Nowhere")
    await submit(making)
    await expect(making.get_by_role("alert")).to_contain_text("is no time zone")
    await making.get_by_label("Quiet hours").uncheck()
    await submit(making)
    await expect(rule(page, "Another")).to_contain_text("the same news once in 90 seconds")


async def test_a_dead_delivery_is_sent_again_and_a_delivery_leads_to_its_run(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor, server: Server
) -> None:
    await add_destination(plane, "Incidents")
    (path,) = await fails(plane, operator)
    await become(plane, DeliveryStatus.DEAD, attempts=31, last_error="it answered 503")
    page = await stage.page(ALERTS, await stage.operator())
    await expect(rows(page)).to_contain_text(["Given up"])
    await expect(rows(page)).to_contain_text(["it answered 503"])
    await expect(destination(page, "Incidents")).to_contain_text("Nothing arrives")
    again = page.get_by_role("button", name="Re-send Effects partially succeeded to Incidents")
    server.asked.clear()
    await again.dblclick()
    await expect(rows(page)).to_contain_text(["On its way"])
    await expect(again).to_be_hidden()
    await expect(rows(page).get_by_role("link")).to_be_focused()
    await expect(page.locator("#live")).to_have_text("Effects partially succeeded, to Incidents: On its way")
    assert sum(one.endswith("/resend") for one in server.asked) == 1
    assert [one.status for one in await every(plane, AlertDelivery)] == ["pending"]
    await rows(page).get_by_role("link").click()
    await expect(page).to_have_url(stage.base_url + path)


async def test_a_delivery_that_went_meanwhile_is_not_sent_twice_and_the_page_says_why(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    await add_destination(plane, "Incidents")
    await fails(plane, operator)
    await become(plane, DeliveryStatus.HELD)
    page = await stage.page(ALERTS, await stage.operator())
    await become(plane, DeliveryStatus.DELIVERED, attempts=1)
    stage.announce("409 POST")
    await rows(page).get_by_role("button", name="Re-send").click()
    await expect(page.locator("#delivery-problem")).to_contain_text("This delivery is delivered")


async def test_deliveries_go_on_by_themselves(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    await add_destination(plane, "Incidents")
    await fails(plane, operator)
    page = await stage.page(ALERTS, await stage.operator())
    await expect(rows(page).locator("[data-status]")).to_have_text(["On its way"])
    now = (await every(plane, AlertDelivery))[0].created_at
    await become(plane, DeliveryStatus.DELIVERED, attempts=2, delivered_at=now)
    await look_again(page)
    await expect(rows(page).locator("[data-status]")).to_have_text(["Delivered"])
    await expect(rows(page).locator("[data-bind=attempts]")).to_have_text(["2"])


async def test_deliveries_are_narrowed_by_status_and_destination_and_the_address_stays_tidy(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    await add_destination(plane, "Incidents")
    on_duty = await add_destination(plane, "On duty")
    await fails(plane, operator, 2)
    page = await stage.page(f"{ALERTS}?limit=3", await stage.operator())
    await expect(rows(page)).to_have_count(3)
    await page.get_by_role("link", name="Next page").click()
    await expect(rows(page)).to_have_count(1)
    await page.get_by_role("link", name="First page").click()
    await expect(rows(page)).to_have_count(4)
    filters = page.get_by_role("form", name="Filters of deliveries")
    await filters.get_by_label("Destination").select_option(label="On duty")
    await filters.get_by_role("button", name="Filter").click()
    await expect(page).to_have_url(f"{stage.base_url}{ALERTS}?destination_id={on_duty}#deliveries")
    await expect(rows(page)).to_have_count(2)
    await expect(filters.get_by_label("Destination")).to_have_value(str(on_duty))
    await filters.get_by_label("Status").select_option(label="Given up")
    await filters.get_by_role("button", name="Filter").click()
    await expect(page.locator("#deliveries")).to_contain_text("No delivery matches")
    await filters.get_by_role("link", name="Clear the filters").click()
    await expect(rows(page)).to_have_count(4)


async def test_without_javascript_the_page_reads_and_names_the_command(
    stage: Stage, plane: Plane, tenants: list[Tenant], operator: Actor
) -> None:
    await add_destination(plane, "Incidents")
    await fails(plane, operator)
    page = await stage.page(ALERTS, await stage.operator(), java_script_enabled=False)
    await expect(destination(page, "Incidents")).to_be_visible()
    await expect(rows(page)).to_have_count(1)
    await expect(page.locator("main noscript p")).to_contain_text("opsplane alerts --help")
    await expect(page.get_by_role("button", name="Add rule…")).to_be_hidden()
    await expect(page.get_by_role("button", name="Send a test")).to_be_hidden()
