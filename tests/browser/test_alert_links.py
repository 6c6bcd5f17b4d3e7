"""What the link in an alert leads to, from the moment of the failure on: sent to real receivers, opened in Chromium."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path

import pytest
import trustme
from playwright.async_api import expect

from opsplane.alerts import courier, destinations
from opsplane.alerts.channels import targets
from opsplane.auth.actors import Actor
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import receivers
from tests.browser.stage import Stage
from tests.browser.test_alerts import fails
from tests.browser.test_journeys import log_in
from tests.receivers import MailServer, Receiver


@contextmanager
def _ears(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Receiver, MailServer]]:
    authority = trustme.CA()
    receivers.trust(authority, folder, monkeypatch)
    with receivers.https(authority) as teams, receivers.smtp(authority) as mail:
        yield teams, mail


def _link_in_card(receiver: Receiver) -> str:
    [request] = receiver.requests
    [action] = json.loads(request.body)["attachments"][0]["content"]["actions"]
    assert action["title"] == "View run"
    return str(action["url"])


def _link_in_mail(mail: EmailMessage) -> str:
    body = mail.get_body(("plain",))
    assert body is not None
    return str(body.get_content()).split("View run: ")[1].split()[0]


async def test_the_links_in_a_card_and_in_a_mail_open_the_run_also_for_whoever_signs_in_first(
    stage: Stage, plane: Plane, tenants: list[Tenant], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    olga = await stage.operator()
    with _ears(tmp_path, monkeypatch) as (teams, mail):
        reaching = {
            "alert_private_hosts": "127.0.0.1",
            "smtp_url": f"smtp://localhost:{mail.port}",
            "mail_from": "opsplane@ops.example",
        }
        house = Plane(plane.db, plane.queue, plane.settings.model_copy(update=reaching))
        async with house.db.transaction() as tx:
            for target in (
                {"kind": "teams", "url": teams.url()},
                {"kind": "email", "recipients": ["oncall@ops.example"]},
            ):
                await destinations.add(
                    tx.session, house.settings, str(target["kind"]), targets.parse(target), by=Actor.shell("root")
                )
        [path] = await fails(house, Actor.shell("deployer"))
        assert await courier.deliver(house.db, house.settings, asyncio.Event()) == 2
    [sent] = mail.mails
    assert _link_in_card(teams) == _link_in_mail(sent) == f"{stage.base_url}{path}"
    page = await stage.page(path, olga)
    await page.goto(_link_in_card(teams))
    await expect(page.get_by_role("heading", level=1)).to_be_visible()
    await expect(page.locator("main")).to_contain_text("Partially succeeded")
    stranger = await stage.page("/system/login")
    await stranger.goto(_link_in_mail(sent))
    await log_in(stranger)
    await stranger.wait_for_url(_link_in_mail(sent))
    await expect(stranger.locator("main")).to_contain_text("Partially succeeded")
