"""What may be typed in as a destination, how it is shown, and what of it is never reached."""

import json
import re
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
import requests

from opsplane import config
from opsplane.alerts.channels import network, service, targets, webhook
from opsplane.alerts.channels.base import Undelivered
from opsplane.alerts.channels.network import Private
from opsplane.alerts.channels.service import SERVICES, Service
from opsplane.config import Settings
from opsplane.errors import ConfigurationError, InvalidInput
from tests.alerting import MESSAGE, message

SECRET = webhook.new_secret()
HOOK = "https://example.webhook.office.com/workflows/s3cret?sig=s3cret"
MAIL = Settings(smtp_url="smtps://mail.example", mail_from="alerts@ops.example")
ACCOUNTS = {
    "slack": "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#ops",
    "discord": "discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js",
    "gchat": "gchat://workspace/key/token",
    "pagerduty": "pagerduty://A1BRTD4JD@TIiajkdnlazkcOXrIdevi7FQ?region=eu",
    "opsgenie": "opsgenie://abcdef-1234-aaaa-bbbbbbbbbbbb/?region=eu",
    "tgram": "tgram://123456789:abcdefg_hijklmnop/12315544/",
    "splunk": "splunk://routing@a7d8f3fe-1111-4222-8333-123456789012",
    "victorops": "victorops://routing@a7d8f3fe-1111-4222-8333-123456789012",
    "wxteams": f"wxteams://{'abcdefgh01' * 8}",
    "pover": f"pover://{'u' * 30}@{'t' * 30}",
}
HOSTS = {
    "hooks.slack.com", "discord.com", "chat.googleapis.com", "events.eu.pagerduty.com", "api.eu.opsgenie.com",
    "api.telegram.org", "alert.victorops.com", "api.ciscospark.com", "api.pushover.net",
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "kind"),
        ({"kind": "pigeon"}, "kind"),
        ({"kind": "teams"}, "url"),
        ({"kind": "teams", "url": HOOK, "token": "s3cret"}, "token"),
        ({"kind": "teams", "url": "http://example.com/s3cret"}, "must start with https://"),
        ({"kind": "teams", "url": "file:///s3cret"}, "must start with https://"),
        ({"kind": "teams", "url": "https:///s3cret"}, "no valid host"),
        ({"kind": "teams", "url": "https://u:s3cret@example.com/"}, "user or a password"),
        ({"kind": "teams", "url": "https://s3cret@example.com/"}, "user or a password"),
        ({"kind": "teams", "url": "https://example.com:s3cret/"}, "host or port"),
        ({"kind": "teams", "url": "https://[::1/s3cret"}, "host or port"),
        ({"kind": "teams", "url": "https://a b.example/s3cret"}, "plain ASCII"),
        ({"kind": "teams", "url": "https://example.com/s3cret\r\nHost: x"}, "plain ASCII"),
        ({"kind": "teams", "url": "https://\uff11\uff12\uff17.0.0.1/s3cret"}, "plain ASCII"),
        ({"kind": "teams", "url": "https://exa%6dple.com/s3cret"}, "no valid host"),
        ({"kind": "teams", "url": "https://example.com\\.evil.net/s3cret"}, "no valid host"),
        ({"kind": "teams", "url": f"https://{'a' * 64}.example/s3cret"}, "no valid host"),
        ({"kind": "teams", "url": "https://example.com/" + "s3cret" * 400}, "2,000 characters"),
        ({"kind": "webhook", "url": "https://example.com", "secret": "s3cret"}, "whsec_"),
        ({"kind": "webhook", "url": "https://example.com", "secret": "whsec_czNjcmV0"}, "24 to 64 bytes"),
        ({"kind": "webhook", "url": "https://example.com", "secret": "whsec_s3cret*" + "A" * 40}, "base64"),
        ({"kind": "webhook", "url": "https://example.com", "secret": SECRET.removeprefix("whsec_")}, "whsec_"),
        ({"kind": "email", "recipients": []}, "recipients"),
        ({"kind": "email", "recipients": ["ops@example.com"] * 51}, "recipients"),
        ({"kind": "email", "recipients": ["ops"]}, "not a plain address"),
        ({"kind": "email", "recipients": ["ops@example.com\r\nBcc: x@example.net"]}, "not a plain address"),
        ({"kind": "service", "url": "json://evil.example/s3cret"}, "must start with one of slack://"),
        ({"kind": "service", "url": "mattermost://evil.example/s3cret"}, "must start with one of"),
        ({"kind": "service", "url": "https://hooks.slack.com/services/s3cret"}, "must start with one of"),
        ({"kind": "service", "url": f"{ACCOUNTS['slack']}?verify=no"}, "no options"),
        ({"kind": "service", "url": f"{ACCOUNTS['slack']}?template=/etc/passwd"}, "no options"),
        ({"kind": "service", "url": f"{ACCOUNTS['slack']}?retry=9&rto=9999"}, "no options"),
        ({"kind": "service", "url": f"{ACCOUNTS['slack']}?region=eu&redirect=yes"}, "no options"),
        ({"kind": "service", "url": f"{ACCOUNTS['slack']} {ACCOUNTS['discord']}"}, "no options"),
    ],
)
def test_bad_input_gets_one_sentence_without_secrets(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        targets.parse(given)
    assert says in caught.value.message
    assert "\n" not in caught.value.message
    assert "s3cret" not in caught.value.message


@pytest.mark.parametrize(
    ("given", "masked"),
    [
        ({"kind": "teams", "url": HOOK}, "https://example.webhook.office.com/…"),
        ({"kind": "webhook", "url": "https://hooks.example:8443/s3cret"}, "https://hooks.example:8443/…"),
        ({"kind": "webhook", "url": "https://[2606:4700::1111]/s3cret"}, "https://[2606:4700::1111]/…"),
        ({"kind": "email", "recipients": ["ops@example.com"]}, "ops@example.com"),
        ({"kind": "email", "recipients": ["ops@example.com", "b@example.com", "c@example.com"]}, "ops@example.com, +2"),
        ({"kind": "email", "recipients": ["ops@example.com", "ops@example.com"]}, "ops@example.com"),
        ({"kind": "service", "url": ACCOUNTS["slack"]}, "Slack slack://…"),
    ],
)
def test_an_address_is_shown_without_what_lets_others_write_there(given: dict[str, Any], masked: str) -> None:
    target = targets.parse(given)
    assert target.masked == masked
    assert "s3cret" not in repr(target)


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "teams", "url": HOOK},
        {"kind": "email", "recipients": ["ops@example.com"]},
        {"kind": "webhook", "url": "https://example.com/x", "secret": SECRET},
        {"kind": "service", "url": ACCOUNTS["discord"]},
    ],
)
def test_a_target_survives_being_kept(given: dict[str, Any]) -> None:
    target = targets.parse(given)
    assert targets.parse(target.model_dump_json().encode()) == target
    assert json.loads(target.model_dump_json()) == given
    target.opened(MAIL)


@pytest.mark.parametrize("given", [{}, {"secret": None}, {"secret": ""}])
def test_a_webhook_without_a_secret_gets_one_of_its_own(given: dict[str, Any]) -> None:
    made = [targets.parse({"kind": "webhook", "url": "https://example.com"} | given) for _ in range(2)]
    secrets = {target.secret for target in made if isinstance(target, targets.WebhookTarget)}
    assert len(secrets) == 2
    assert all(len(webhook.key_of(secret)) == 32 for secret in secrets)


async def test_mail_without_a_server_is_refused_and_the_setting_named() -> None:
    target = targets.parse({"kind": "email", "recipients": ["ops@example.com"]})
    with pytest.raises(InvalidInput, match="OPSPLANE_SMTP_URL"):
        target.opened(Settings())
    with pytest.raises(Undelivered, match="OPSPLANE_SMTP_URL"):
        await targets.send(target, Settings(), MESSAGE)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.0.0.1.",
        "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "255.255.255.255",
        "224.0.0.1", "240.0.0.1", "192.0.0.8", "192.88.99.1", "198.18.0.1", "203.0.113.1",
        "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:a00:1]", "[::ffff:0:127.0.0.1]", "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::8.8.8.8]", "[2002:7f00:1::]", "[2002:808:808::]",
        "[2001::1]", "[fe80::1]", "[fc00::1]", "[fec0::1]", "[ff02::1]", "[ff0e::1]", "[2001:db8::1]", "[3fff::1]",
        "[100::1]", "[5f00::1]",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_refused_however_it_is_spelt(host: str) -> None:
    for kind in ("teams", "webhook"):
        target = targets.parse({"kind": kind, "url": f"https://{host}/hook"})
        with pytest.raises(InvalidInput, match="not a public address; OPSPLANE_ALERT_PRIVATE_HOSTS"):
            target.opened(Settings())


@pytest.mark.parametrize(
    "host",
    ["8.8.8.8", "134744072", "[2606:4700::1111]", "[::ffff:8.8.8.8]", "[64:ff9b::8.8.8.8]", "hooks.example", "xn--a.b"],
)
def test_a_public_address_or_a_name_is_taken(host: str) -> None:
    targets.parse({"kind": "teams", "url": f"https://{host}/hook"}).opened(Settings())


@pytest.mark.parametrize(
    ("listed", "host", "address", "allowed"),
    [
        (None, "hooks.example", "10.0.0.5", False),
        ("10.0.0.0/8", "hooks.example", "10.0.0.5", True),
        ("10.0.0.0/8", "hooks.example", "::ffff:10.0.0.5", True),
        ("10.0.0.0/8", "hooks.example", "64:ff9b::10.0.0.5", True),
        ("10.0.0.0/8", "hooks.example", "127.0.0.1", False),
        ("10.0.0.5", "hooks.example", "10.0.0.5", True),
        ("10.0.0.5", "hooks.example", "10.0.0.6", False),
        ("Hooks.Example", "hooks.example", "10.0.0.5", True),
        ("hooks.example", "other.example", "10.0.0.5", False),
        ("hooks.example", "evil.hooks.example", "10.0.0.5", False),
        (" fc00::/7 ,, hooks.example ", "x.example", "fc00::1", True),
        ("10.0.0.0/8", "hooks.example", "8.8.8.8", True),
    ],
)
def test_the_installation_may_name_what_else_is_reached(
    listed: str | None, host: str, address: str, allowed: bool
) -> None:
    private = Private.of(Settings(alert_private_hosts=listed))
    assert private.allows(host, ip_address(address)) is allowed


def test_a_private_address_that_is_listed_may_be_typed_in() -> None:
    url = "https://10.0.0.5/hook"
    network.refuse_private(url, Private(networks=(ip_network("10.0.0.0/8"),)))
    targets.parse({"kind": "teams", "url": url}).opened(Settings(alert_private_hosts="10.0.0.5"))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"OPSPLANE_ALERT_PRIVATE_HOSTS": "10.0.0.1/8"}, "OPSPLANE_ALERT_PRIVATE_HOSTS: 10.0.0.1/8 has host bits set"),
        ({"OPSPLANE_ALERT_PRIVATE_HOSTS": "hooks.example, https://x"}, "OPSPLANE_ALERT_PRIVATE_HOSTS: 'https://x'"),
        ({"OPSPLANE_ALERT_PRIVATE_HOSTS": "*.example"}, "OPSPLANE_ALERT_PRIVATE_HOSTS: '*.example'"),
        ({"OPSPLANE_ALERT_PRIVATE_HOSTS": "10.0.0"}, "OPSPLANE_ALERT_PRIVATE_HOSTS: '10.0.0'"),
        ({"OPSPLANE_SMTP_URL": "smtp://u:s3cret@"}, "OPSPLANE_SMTP_URL: must be like"),
        ({"OPSPLANE_SMTP_URL": "smtp://mail.example"}, "OPSPLANE_SMTP_URL needs OPSPLANE_MAIL_FROM"),
        ({"OPSPLANE_MAIL_FROM": "Ops <ops@example.com>"}, "OPSPLANE_MAIL_FROM: must be a plain address"),
    ],
)
def test_a_wrong_setting_of_alerts_stops_start_up(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], says: str
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=re.escape(says)) as caught:
        config.load(values)
    assert "\n" not in caught.value.message
    assert "s3cret" not in caught.value.message


def test_settings_do_not_show_the_password_of_the_mail_server() -> None:
    assert "s3cret" not in repr(Settings(smtp_url="smtps://u:s3cret@mail.example", mail_from="a@ops.example"))


class Posted:
    """Stands where requests reach the network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, status: int = 200) -> None:
        self.requests: list[tuple[requests.PreparedRequest, dict[str, Any]]] = []
        self._status = status
        monkeypatch.setattr(requests.Session, "send", self._send)

    def sent(self) -> Any:
        [(request, _)] = self.requests
        assert isinstance(request.body, str | bytes)
        return json.loads(request.body)

    def _send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        self.requests.append((request, options))
        response = requests.Response()
        response.status_code, response._content = self._status, b"ok"
        response.request, response.url = request, str(request.url)
        return response


def test_every_service_has_an_example_here() -> None:
    assert ACCOUNTS.keys() == SERVICES.keys()


@pytest.mark.parametrize("scheme", SERVICES)
async def test_a_service_is_reached_at_its_own_host_by_tls_and_without_redirects(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    posted = Posted(monkeypatch)
    with suppress(Undelivered):  # each has its own way of saying yes
        await Service(ACCOUNTS[scheme]).send(MESSAGE)
    assert posted.requests
    for request, options in posted.requests:
        assert re.fullmatch(rf"https://({'|'.join(map(re.escape, HOSTS))})/.*", str(request.url)), request.url
        assert options["allow_redirects"] is False
        assert options["verify"] not in {False, None}
        assert options["timeout"] == (service.TIMEOUT_S, service.TIMEOUT_S)
        assert request.body is not None
        assert "github" not in str(request.body), "apprise's own pictures are linked"


async def test_a_service_is_sent_the_facts_and_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    posted = Posted(monkeypatch)
    await Service(ACCOUNTS["slack"]).send(MESSAGE)
    sent = posted.sent()
    assert sent["mrkdwn"] is False
    [attachment] = sent["attachments"]
    assert attachment["title"] == MESSAGE.title
    assert "3 failed of 250" in attachment["text"]
    assert MESSAGE.link in attachment["text"]


@pytest.mark.parametrize("status", [302, 403, 500])
async def test_a_service_that_refuses_is_named_and_nothing_else(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    Posted(monkeypatch, status)
    with pytest.raises(Undelivered) as caught:
        await Service(ACCOUNTS["slack"]).send(MESSAGE)
    assert caught.value.reason == "Slack refused it or could not be reached"


async def test_a_service_whose_plugin_breaks_has_not_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Service(ACCOUNTS["slack"])
    monkeypatch.setattr(opened._apprise, "notify", lambda **_: 1 / 0)
    with pytest.raises(Undelivered, match="Slack refused it"):
        await opened.send(MESSAGE)


@pytest.mark.parametrize("scheme", ["slack", "discord"])
async def test_a_name_rings_nobody(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    posted = Posted(monkeypatch)
    with suppress(Undelivered):
        await Service(ACCOUNTS[scheme]).send(message(title="@everyone failed", facts=(("Scope", "<!channel> @here"),)))
    sent = json.dumps(posted.sent(), ensure_ascii=False)
    assert "@everyone" not in sent
    assert "@here" not in sent
    assert "<!channel>" not in sent


def test_a_url_that_is_none_of_its_service_is_refused_when_opened() -> None:
    for url in ("slack://s3cret", "discord://s3cret", "tgram://s3cret"):
        with pytest.raises(InvalidInput, match="The URL is not one of") as caught:
            targets.parse({"kind": "service", "url": url}).opened(Settings())
        assert "s3cret" not in caught.value.message
