"""Destinations, rules and deliveries over HTTP: what is secret stays so, what makes no sense is refused, all is audited."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from sqlalchemy import select, update

from opsplane.alerts.models import AlertDelivery, AlertRule
from opsplane.audit.models import AuditEvent
from opsplane.auth.capabilities import Capability
from opsplane.config import Settings
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import receivers, web
from tests.integration.test_courier import deliver, fail_a_run
from tests.receivers import Receiver
from tests.web import Client

DESTINATIONS, RULES = "/system/alerts/destinations", "/system/alerts/rules"


@pytest.fixture
def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    authority = trustme.CA()
    receivers.trust(authority, tmp_path, monkeypatch)
    with receivers.https(authority) as found:
        yield found


@pytest.fixture
def house(plane: Plane, settings: Settings) -> Plane:
    """A plane whose alerts may reach this machine."""
    reaching = settings.model_copy(update={"alert_private_hosts": "127.0.0.1"})
    return Plane(plane.db, plane.queue, reaching)


@pytest.fixture
async def client(house: Plane) -> AsyncIterator[Client]:
    olga = await web.platform_user(house, Capability.SYSTEM_ACCESS, Capability.ALERTS_MANAGE, email="olga@ops.test")
    async with web.doors(house) as doors:
        yield await doors.signed_in(olga.email)


async def added(client: Client, url: str, name: str = "hook", **target: Any) -> dict[str, Any]:
    answer = await client.post(DESTINATIONS, json={"name": name, "target": {"kind": "webhook", "url": url, **target}})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def refused(client: Client, method: str, path: str, body: object) -> tuple[int, str, str]:
    answer = await client.request(method, path, json=body)
    problem = answer.json()
    return answer.status_code, problem["code"], json.dumps(problem)


async def test_the_secret_of_a_webhook_is_shown_once_and_its_address_never(client: Client, receiver: Receiver) -> None:
    made = await added(client, receiver.url())
    assert made["secret"].startswith("whsec_")
    assert made["address"] == f"https://127.0.0.1:{receiver.port}/…"
    for path in (DESTINATIONS, f"{DESTINATIONS}/{made['id']}", "/system/alerts"):
        shown = (await client.get(path)).text
        assert made["secret"] not in shown
        assert "s3cret" not in shown


async def test_a_secret_that_was_given_is_not_given_back(client: Client, receiver: Receiver) -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert (await added(client, receiver.url(), secret=secret))["secret"] is None


@pytest.mark.parametrize("nothing", [None, ""])
async def test_a_secret_that_is_left_empty_is_made_and_shown(client: Client, receiver: Receiver, nothing: None) -> None:
    assert (await added(client, receiver.url(), secret=nothing))["secret"].startswith("whsec_")


async def test_a_rule_that_names_a_destination_twice_names_it_once(client: Client, receiver: Receiver) -> None:
    made = await added(client, receiver.url())
    rule = (await client.post(RULES, json={"name": "r", "destination_ids": [made["id"], made["id"]]})).json()
    assert rule["destination_ids"] == [made["id"]]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"kind": "webhook", "url": "http://example.com/"}, "must start with https://"),
        ({"kind": "webhook", "url": "https://user:pass@example.com/"}, "must not hold a user or a password"),
        ({"kind": "webhook", "url": "https://10.0.0.1/"}, "is not a public address"),
        ({"kind": "webhook", "url": "https://[::1]/"}, "is not a public address"),
        ({"kind": "teams", "url": "file:///etc/passwd"}, "must start with https://"),
        ({"kind": "email", "recipients": ["nobody"]}, "not a plain address"),
        ({"kind": "email", "recipients": ["a@example.com"]}, "set OPSPLANE_SMTP_URL"),
        ({"kind": "email", "recipients": []}, "at least 1 item"),
        ({"kind": "service", "url": "json://example.com"}, "json"),
        ({"kind": "pigeon"}, "pigeon"),
        ({"kind": "webhook", "url": "https://example.com/", "method": "GET"}, "method"),
    ],
)
async def test_a_target_that_cannot_be_is_refused_with_a_reason_and_nothing_is_kept(
    client: Client, target: dict[str, Any], said: str
) -> None:
    status, _, problem = await refused(client, "POST", DESTINATIONS, {"name": "x", "target": target})
    assert status == 422
    if target["kind"] not in {"pigeon", "service"}:
        assert said in problem
    assert (await client.get(DESTINATIONS)).json()["items"] == []


async def test_two_destinations_or_rules_cannot_have_one_name(client: Client, receiver: Receiver) -> None:
    first = await added(client, receiver.url())
    second = await added(client, receiver.url(), name="other")
    target = {"kind": "webhook", "url": receiver.url()}
    assert (await refused(client, "POST", DESTINATIONS, {"name": "hook", "target": target}))[:2] == (409, "name_taken")
    path = f"{DESTINATIONS}/{second['id']}"
    assert (await refused(client, "PATCH", path, {"name": "hook"}))[:2] == (409, "name_taken")
    assert (await client.patch(f"{DESTINATIONS}/{first['id']}", json={"name": "hook"})).status_code == 200
    await client.post(RULES, json={"name": "mine"})
    assert (await refused(client, "POST", RULES, {"name": "mine"}))[:2] == (409, "name_taken")


async def test_a_test_message_says_whether_it_arrived(client: Client, receiver: Receiver) -> None:
    made = await added(client, receiver.url())
    good = (await client.post(f"{DESTINATIONS}/{made['id']}/test")).json()
    assert (good["delivered"], good["error"]) == (True, None)
    assert json.loads(receiver.requests[0].body)["type"] == "alerts.test"
    receiver.answer = receivers.answers(410)
    bad = (await client.post(f"{DESTINATIONS}/{made['id']}/test")).json()
    assert (bad["delivered"], bad["error"]) == (False, "127.0.0.1 answered 410 Gone")


async def test_a_new_address_is_used_from_then_on(
    house: Plane, client: Client, receiver: Receiver, tenants: list[Tenant]
) -> None:
    made = await added(client, receiver.url(path="/old"))
    new = {"kind": "webhook", "url": receiver.url(path="/new")}
    changed = (await client.patch(f"{DESTINATIONS}/{made['id']}", json={"target": new})).json()
    assert changed["secret"] != made["secret"]
    await fail_a_run(house)
    await deliver(house)
    assert [request.path for request in receiver.requests] == ["/new"]


async def test_health_tells_of_what_does_not_arrive(
    house: Plane, client: Client, receiver: Receiver, tenants: list[Tenant]
) -> None:
    made = await added(client, receiver.url())
    receiver.answer = receivers.answers(500)
    await fail_a_run(house)
    await deliver(house)
    health = (await client.get(f"{DESTINATIONS}/{made['id']}")).json()["health"]
    assert (health["failing"], health["dead"]) == (1, 0)
    assert health["last_error"] == "127.0.0.1 answered 500 Internal Server Error"
    assert health["last_delivered_at"] is None


async def test_a_rule_that_named_a_deleted_destination_alone_is_switched_off_and_tells_nobody_else(
    client: Client, receiver: Receiver
) -> None:
    one, other = await added(client, receiver.url()), await added(client, receiver.url(), name="other")
    alone = (await client.post(RULES, json={"name": "alone", "destination_ids": [one["id"]]})).json()
    both = (await client.post(RULES, json={"name": "both", "destination_ids": [one["id"], other["id"]]})).json()
    assert (await client.delete(f"{DESTINATIONS}/{one['id']}")).status_code == 204
    rules = {rule["id"]: rule for rule in (await client.get(RULES)).json()["items"]}
    assert rules[alone["id"]]["enabled"] is False
    assert rules[both["id"]] | {"enabled": True} == both | {"destination_ids": [other["id"]], "enabled": True}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"events": []}, "events"),
        ({"events": ["operations.run.queued"]}, "events"),
        ({"min_severity": "loud"}, "min_severity"),
        ({"scope": "galaxy"}, "scope"),
        ({"cooldown_s": -1}, "cooldown_s"),
        ({"cooldown_s": 10**9}, "cooldown_s"),
        ({"quiet_hours": {"from": "22:00", "until": "22:00"}}, "must end at another time"),
        ({"quiet_hours": {"from": "10 pm", "until": "07:00"}}, "no time of day"),
        ({"quiet_hours": {"from": "22:00", "until": "07:00", "zone": "Berlin"}}, "no time zone"),
        ({"destination_ids": ["01a1ffed-41c4-7566-a508-288f2a95a9ac"]}, "There is no destination"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_rule_that_makes_no_sense_is_refused_new_or_changed(
    client: Client, body: dict[str, Any], said: str
) -> None:
    for method, path in (("POST", RULES), ("PATCH", f"{RULES}/{(await client.get(RULES)).json()['items'][0]['id']}")):
        status, _, problem = await refused(client, method, path, ({"name": "new"} if method == "POST" else {}) | body)
        assert status == 422
        assert said in problem
    assert len((await client.get(RULES)).json()["items"]) == 1


async def test_a_change_of_a_rule_leaves_what_it_does_not_name(client: Client) -> None:
    quiet = {"from": "22:00", "until": "07:00", "zone": "Europe/Berlin"}
    made = (await client.post(RULES, json={"name": "r", "cooldown_s": 60, "quiet_hours": quiet})).json()
    assert made["quiet_hours"] == quiet
    changed = (await client.patch(f"{RULES}/{made['id']}", json={"enabled": False})).json()
    assert changed == made | {"enabled": False}
    loud = (await client.patch(f"{RULES}/{made['id']}", json={"quiet_hours": None})).json()
    assert loud == changed | {"quiet_hours": None}


async def test_what_was_given_up_can_be_sent_by_hand_once(
    house: Plane, client: Client, receiver: Receiver, tenants: list[Tenant]
) -> None:
    await added(client, receiver.url())
    await fail_a_run(house)
    async with house.db.transaction() as tx:
        await tx.session.execute(update(AlertDelivery).values(status="dead"))
    [dead] = (await client.get("/system/alerts/deliveries?status=dead")).json()["items"]
    assert dead["can_resend"] is True
    path = f"/system/alerts/deliveries/{dead['id']}/resend"
    answer = await client.post(path)
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    assert (await refused(client, "POST", path, None))[:2] == (409, "not_to_resend")
    await deliver(house)
    assert len(receiver.requests) == 1
    [sent] = (await client.get("/system/alerts/deliveries")).json()["items"]
    assert (sent["status"], sent["can_resend"]) == ("delivered", False)


async def test_deliveries_come_newest_first_in_pages(
    house: Plane, client: Client, receiver: Receiver, tenants: list[Tenant]
) -> None:
    await added(client, receiver.url())
    for _ in range(3):
        await fail_a_run(house)
    first = (await client.get("/system/alerts/deliveries?limit=2")).json()
    rest = (await client.get(f"/system/alerts/deliveries?limit=2&cursor={first['next_cursor']}")).json()
    times = [one["created_at"] for one in first["items"] + rest["items"]]
    assert (len(times), times, rest["next_cursor"]) == (3, sorted(times, reverse=True), None)


async def test_every_change_is_on_record_without_a_secret(house: Plane, client: Client, receiver: Receiver) -> None:
    made = await added(client, receiver.url())
    path = f"{DESTINATIONS}/{made['id']}"
    await client.post(f"{path}/test")
    await client.patch(path, json={"enabled": False})
    rule = (await client.post(RULES, json={"name": "r"})).json()
    await client.patch(f"{RULES}/{rule['id']}", json={"cooldown_s": 60})
    await client.delete(f"{RULES}/{rule['id']}")
    await client.delete(path)
    async with house.db.reading() as session:
        found = await session.scalars(
            select(AuditEvent).where(AuditEvent.action.startswith("platform.alerts.")).order_by(AuditEvent.id)
        )
        events = [(event.action.rsplit(".", 1)[1], json.dumps(event.details)) for event in found]
    assert [act for act, _ in events] == [
        "destination_added", "destination_tested", "destination_changed",
        "rule_added", "rule_changed", "rule_deleted", "destination_deleted",
    ]  # fmt: skip
    assert not any("s3cret" in details or made["secret"] in details for _, details in events)


async def test_whoever_may_not_manage_alerts_is_told_which_capability_is_missing(house: Plane) -> None:
    otto = await web.platform_user(house, Capability.SYSTEM_ACCESS, Capability.OPS_VIEW, email="otto@ops.test")
    async with web.doors(house) as doors:
        client = await doors.signed_in(otto.email)
        for path in ("/system/alerts", DESTINATIONS, RULES, "/system/alerts/deliveries"):
            answer = await client.get(path)
            assert answer.status_code == 403
            assert "platform.alerts.manage" in answer.text


@pytest.fixture(autouse=True)
async def _first_rule_alone(plane: Plane) -> None:
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(AlertRule).values(enabled=True, cooldown_s=0, quiet_from=None))
