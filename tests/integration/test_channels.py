"""Channels against real servers on loopback: what is delivered, what is not, in which time, and what is never reached."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import trustme
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError
from structlog.testing import capture_logs

from opsplane import mailing
from opsplane.alerts.channels import base, network, targets, webhook
from opsplane.alerts.channels.base import Undelivered
from opsplane.alerts.channels.mail import Email
from opsplane.alerts.channels.network import Private
from opsplane.alerts.channels.service import Service
from opsplane.alerts.channels.teams import Teams, card
from opsplane.alerts.channels.webhook import Webhook
from opsplane.config import Settings
from tests import receivers
from tests.alerting import MESSAGE, message
from tests.receivers import Answer, Receiver

LOOPBACK = Private(networks=(ip_network("127.0.0.1"),))
SECRET = webhook.new_secret()
PEOPLE = ("ops@example.com", "chief@example.com")
SHORT_S = 0.6


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(autouse=True)
def _trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receivers.trust(authority, tmp_path, monkeypatch)


@pytest.fixture
def receiver(authority: trustme.CA) -> Iterator[Receiver]:
    with receivers.https(authority) as started:
        yield started


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less patience, so that tests of it need not last."""
    monkeypatch.setattr(base, "SEND_S", SHORT_S)


class Names:
    """A name server that answers from a list, and the last of it for ever; it counts who asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, host: str, *answers: list[str]) -> None:
        self.asked = 0
        self._host, self._answers, self._real = host, list(answers), socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, host: Any, port: Any, *others: Any, **named: Any) -> Any:
        if host not in {self._host, self._host.encode()}:
            return self._real(host, port, *others, **named)
        self.asked += 1
        found = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [entry for address in found for entry in self._real(address, port, *others, **named)]


async def reason(url: str, private: Private = LOOPBACK) -> str:
    with pytest.raises(Undelivered) as caught:
        await Webhook(url, SECRET, private).send(MESSAGE)
    assert "s3cret" not in caught.value.reason
    assert "\n" not in caught.value.reason
    return caught.value.reason


async def test_teams_gets_the_card(receiver: Receiver) -> None:
    await Teams(receiver.url(), LOOPBACK).send(MESSAGE)
    [request] = receiver.requests
    assert json.loads(request.body) == card(MESSAGE)
    assert request.headers["content-type"] == "application/json"
    assert request.path == "/hook/s3cret?key=s3cret"
    assert request.headers["host"] == f"127.0.0.1:{receiver.port}"


async def test_a_webhook_is_verified_by_a_library_that_is_not_ours(receiver: Receiver) -> None:
    await Webhook(receiver.url(), SECRET, LOOPBACK).send(MESSAGE)
    [request] = receiver.requests
    assert Verifier(SECRET).verify(request.body, request.headers) == {
        "type": "operations.run.failed",
        "timestamp": "2026-11-21T20:42:22.123456Z",
        "data": MESSAGE.data | {"title": MESSAGE.title},
    }
    assert request.headers["webhook-id"] == MESSAGE.key
    changed = request.body.replace(b"failed", b"passed")
    with pytest.raises(WebhookVerificationError):
        Verifier(SECRET).verify(changed, request.headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(webhook.new_secret()).verify(request.body, request.headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(SECRET).verify(request.body, request.headers | {"webhook-id": "another"})


async def test_a_repeat_has_the_same_key_and_body(receiver: Receiver) -> None:
    for _ in range(2):
        await Webhook(receiver.url(), SECRET, LOOPBACK).send(message(data=dict(reversed(MESSAGE.data.items()))))
        await Webhook(receiver.url(), SECRET, LOOPBACK).send(MESSAGE)
    assert len({(request.headers["webhook-id"], request.body) for request in receiver.requests}) == 1
    assert len(receiver.requests) == 4


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_every_status_from_200_on_is_delivery(receiver: Receiver, status: int) -> None:
    receiver.answer = receivers.answers(status, b"")
    await Webhook(receiver.url(), SECRET, LOOPBACK).send(MESSAGE)
    assert receiver.connections == 1


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (500, "127.0.0.1 answered 500 Internal Server Error"),
        (404, "127.0.0.1 answered 404 Not Found"),
        (799, "127.0.0.1 answered 799"),
    ],
)
async def test_a_refusal_says_the_status_and_no_word_of_the_receiver(
    receiver: Receiver, status: int, words: str
) -> None:
    receiver.answer = receivers.answers(status)
    assert await reason(receiver.url()) == words
    assert receiver.connections == 1, "it is the outbox that tries again"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(authority: trustme.CA, receiver: Receiver, status: int) -> None:
    with receivers.https(authority) as other:
        receiver.answer = receivers.answers(status, Location=other.url())
        assert (await reason(receiver.url())).endswith("; redirects are not followed")
        assert (other.connections, len(receiver.requests)) == (0, 1)


@pytest.mark.parametrize(
    ("status", "asked", "patience"),
    [
        (429, "120", 120),
        (503, "120", 120),
        (503, "86400", 3600),
        (429, "9" * 400, 3600),
        (429, "-5", None),
        (429, "soon", None),
        (429, "nan", None),
        (500, "120", None),
        (503, "Wed, 21 Oct 2015 07:28:00 GMT", 0),
        (503, "Fri, 31 Dec 9999 23:59:59 GMT", 3600),
    ],
)
async def test_a_receiver_that_asks_for_patience_gets_an_hour_at_most(
    receiver: Receiver, status: int, asked: str, patience: float | None
) -> None:
    receiver.answer = receivers.answers(status, Retry_After=asked)
    with pytest.raises(Undelivered) as caught:
        await Webhook(receiver.url(), SECRET, LOOPBACK).send(MESSAGE)
    assert caught.value.retry_after_s == patience


async def test_patience_until_a_date_is_counted_from_now(receiver: Receiver) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    receiver.answer = receivers.answers(429, Retry_After=date)
    with pytest.raises(Undelivered) as caught:
        await Webhook(receiver.url(), SECRET, LOOPBACK).send(MESSAGE)
    assert caught.value.retry_after_s == pytest.approx(88, abs=4)


@pytest.mark.parametrize("answer", [receivers.hangs, receivers.drips_headers])
@pytest.mark.usefixtures("short")
async def test_a_receiver_that_never_answers_is_left_in_time(receiver: Receiver, answer: Answer) -> None:
    receiver.answer = answer
    begun = time.monotonic()
    assert await reason(receiver.url()) == "127.0.0.1 did not answer in time"
    assert time.monotonic() - begun < SHORT_S + 1
    assert receiver.connections == 1


@pytest.mark.usefixtures("short")
async def test_a_receiver_that_takes_no_connection_is_left_in_time_and_for_good() -> None:
    begun = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/s3cret"
        assert await reason(url) == "127.0.0.1 did not answer in time"
        assert time.monotonic() - begun < SHORT_S + 1
        taken, _ = listener.accept()
        with taken:
            taken.settimeout(2)
            while taken.recv(65_536):  # until the end, which comes only if we have closed it
                pass


async def test_the_words_after_a_good_status_are_not_waited_for(receiver: Receiver) -> None:
    receiver.answer = receivers.hangs_in_the_body
    begun = time.monotonic()
    await Webhook(receiver.url(), SECRET, LOOPBACK).send(MESSAGE)
    assert time.monotonic() - begun < 3


async def test_a_receiver_that_hangs_up_has_not_answered(receiver: Receiver) -> None:
    receiver.answer = receivers.hangs_up
    assert await reason(receiver.url()) == "127.0.0.1 ended the connection without an answer"


async def test_a_receiver_that_is_away_could_not_be_reached() -> None:
    with receivers.deaf() as port:
        pass
    assert await reason(f"https://127.0.0.1:{port}/s3cret") == "127.0.0.1 could not be reached"


async def test_a_certificate_of_strangers_is_not_trusted(receiver: Receiver) -> None:
    with receivers.https(trustme.CA()) as stranger:
        assert "127.0.0.1 is not trusted" in await reason(stranger.url())
        assert stranger.requests == []


async def test_a_certificate_for_another_name_is_not_trusted(authority: trustme.CA) -> None:
    with receivers.https(authority, "hooks.example") as other:
        assert "127.0.0.1 is not trusted" in await reason(other.url())
        assert other.requests == []


async def test_what_speaks_no_tls_is_sent_nothing() -> None:
    async def chat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(65_536))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    heard: list[bytes] = []
    server = await asyncio.start_server(chat, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await reason(f"https://127.0.0.1:{port}/s3cret") == "127.0.0.1 speaks no TLS that is understood"
        assert await reason(f"http://127.0.0.1:{port}/s3cret") == "The URL must start with https://."
    assert len(heard) == 1
    assert b"s3cret" not in heard[0]


async def test_a_proxy_of_the_environment_is_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with receivers.deaf() as port:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        await Webhook(receiver.url(), SECRET, LOOPBACK).send(MESSAGE)
    assert receiver.connections == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1"])
async def test_loopback_is_not_connected_to_however_it_is_spelt(receiver: Receiver, host: str) -> None:
    assert await reason(receiver.url(host), Private()) == network._not_public(host)
    assert receiver.connections == 0


@pytest.mark.parametrize("address", ["::ffff:127.0.0.1", "::1", "64:ff9b::7f00:1"])
async def test_a_name_whose_address_hides_loopback_is_not_connected_to(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    Names(monkeypatch, "hooks.example", [address])
    assert "not a public address" in await reason(receiver.url("hooks.example"), Private())
    assert receiver.connections == 0


async def test_a_name_that_nobody_knows_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "s3cret")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    assert await reason("https://hooks.example/s3cret") == "The name server knows no hooks.example"


async def test_a_name_that_changes_after_the_check_changes_nothing(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """127.0.0.2 stands for what may be reached, 127.0.0.3 for what may not."""
    allowed = Private(networks=(ip_network("127.0.0.2"),))
    with (
        receivers.https(authority, "hooks.example", address="127.0.0.2") as good,
        receivers.https(authority, "hooks.example", address="127.0.0.3", port=good.port) as bad,
    ):
        names = Names(monkeypatch, "hooks.example", ["127.0.0.2"], ["127.0.0.3"])
        await Webhook(good.url("hooks.example"), SECRET, allowed).send(MESSAGE)
        assert (names.asked, good.connections, bad.connections) == (1, 1, 0)
        assert "not a public address" in await reason(good.url("hooks.example"), allowed)
        assert (names.asked, good.connections, bad.connections) == (2, 1, 0)


async def test_of_several_addresses_only_those_allowed_are_tried(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = Private(networks=(ip_network("127.0.0.2"), ip_network("127.0.0.4")))
    with (
        receivers.https(authority, "hooks.example", address="127.0.0.2") as good,
        receivers.https(authority, "hooks.example", address="127.0.0.3", port=good.port) as bad,
    ):
        Names(monkeypatch, "hooks.example", ["127.0.0.3", "127.0.0.4", "127.0.0.2"])  # nobody is at 127.0.0.4
        await Webhook(good.url("hooks.example"), SECRET, allowed).send(MESSAGE)
        assert (good.connections, bad.connections) == (1, 0)


async def test_a_host_that_the_installation_names_is_reached(receiver: Receiver) -> None:
    settings = Settings(alert_private_hosts="localhost")
    target = targets.parse({"kind": "webhook", "url": receiver.url("localhost"), "secret": SECRET})
    await targets.send(target, settings, MESSAGE)
    assert receiver.connections == 1
    with pytest.raises(Undelivered, match="not a public address"):
        await targets.send(targets.parse({"kind": "teams", "url": receiver.url()}), settings, MESSAGE)
    assert receiver.connections == 1


def email(server: receivers.MailServer, scheme: str, login: str = "", host: str = "localhost") -> Email:
    return Email(PEOPLE, mailing.server(f"{scheme}://{login}{host}:{server.port}"), "alerts@ops.example")


async def mail_reason(channel: Email) -> str:
    with pytest.raises(Undelivered) as caught:
        await channel.send(MESSAGE)
    assert "s3cret" not in caught.value.reason
    return caught.value.reason


@pytest.mark.parametrize(("tls", "scheme"), [("starttls", "smtp"), ("implicit", "smtps"), ("none", "smtp+plain")])
@pytest.mark.parametrize("login", ["", "ops:s3cret@"])
async def test_mail_arrives_once_for_everybody(authority: trustme.CA, tls: str, scheme: str, login: str) -> None:
    with receivers.smtp(authority, tls=tls, login=("ops", "s3cret")) as server:
        await email(server, scheme, login).send(MESSAGE)
    [mail] = server.mails
    assert mail["Subject"] == "[opsplane] Rebuild Findings Lifecycle failed"
    assert mail["X-Opsplane-Key"] == MESSAGE.key
    assert server.recipients == list(PEOPLE)
    assert server.encrypted == [tls != "none"]
    assert server.connections == 1


async def test_mail_in_every_script_arrives_as_it_was(authority: trustme.CA) -> None:
    title, fact = "Überprüfung 検査 failed ✕", ("Scope", "Tenant Žluťoučký 🐎")
    with receivers.smtp(authority) as server:
        await email(server, "smtp").send(message(title=title, facts=(fact,)))
    [mail] = server.mails
    assert mail["Subject"] == f"[opsplane] {title}"
    for kind in ("plain", "html"):
        part = mail.get_body((kind,))
        assert part is not None
        assert fact[1] in part.as_bytes().decode() or fact[1] in str(part.get_payload(decode=True), "utf-8")  # type: ignore[arg-type]


async def test_without_starttls_nothing_is_sent(authority: trustme.CA) -> None:
    with receivers.smtp(authority, tls="none", login=("ops", "s3cret")) as server:
        assert "offers no STARTTLS" in await mail_reason(email(server, "smtp", "ops:s3cret@"))
    assert server.mails == []


@pytest.mark.parametrize(("tls", "scheme"), [("starttls", "smtp"), ("implicit", "smtps")])
async def test_a_mail_server_of_strangers_is_sent_nothing(tls: str, scheme: str) -> None:
    with receivers.smtp(trustme.CA(), tls=tls, login=("ops", "s3cret")) as server:
        found = await mail_reason(email(server, scheme, "ops:s3cret@"))
    assert f"The certificate of localhost:{server.port} is not trusted" in found
    assert server.mails == []


async def test_a_mail_servers_certificate_is_for_its_name(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    Names(monkeypatch, "mail.example", ["127.0.0.1"])
    with receivers.smtp(authority) as server:
        assert "is not trusted" in await mail_reason(email(server, "smtp", host="mail.example"))
    assert server.mails == []


async def test_a_wrong_password_is_named_and_not_shown(authority: trustme.CA) -> None:
    with receivers.smtp(authority, login=("ops", "other")) as server:
        found = await mail_reason(email(server, "smtp", "ops:s3cret@"))
    assert found == f"localhost:{server.port} refused the user or the password with 535 5.7.8"


async def test_mail_that_one_recipient_may_not_get_is_delivered_to_the_other(authority: trustme.CA) -> None:
    with receivers.smtp(authority) as server, capture_logs() as logs:
        server.refuses = {PEOPLE[0]}
        await email(server, "smtp").send(MESSAGE)
    assert server.recipients == [PEOPLE[1]]
    [line] = [line for line in logs if line["event"] == "mail_partly_refused"]
    assert (line["refused"], line["of"]) == (1, 2)


async def test_mail_that_nobody_may_get_is_not_delivered(authority: trustme.CA) -> None:
    with receivers.smtp(authority) as server:
        server.refuses = set(PEOPLE)
        found = await mail_reason(email(server, "smtp"))
    assert found == f"localhost:{server.port} refused every recipient, the first with 550 5.1.1"
    assert server.mails == []


async def test_a_mail_server_that_is_away_could_not_be_reached() -> None:
    with receivers.deaf() as port:
        pass
    server = mailing.server(f"smtps://ops:s3cret@127.0.0.1:{port}")
    assert await mail_reason(Email(PEOPLE, server, "alerts@ops.example")) == (
        f"127.0.0.1:{port} could not be reached, or ended the connection"
    )


@pytest.mark.parametrize("scheme", ["smtp", "smtps", "smtp+plain"])
@pytest.mark.usefixtures("short")
async def test_a_mail_server_that_says_nothing_is_left_in_time(scheme: str) -> None:
    begun = time.monotonic()
    with receivers.deaf() as port:
        server = mailing.server(f"{scheme}://127.0.0.1:{port}")
        assert await mail_reason(Email(PEOPLE, server, "a@ops.example")) == f"127.0.0.1:{port} did not answer in time"
    assert time.monotonic() - begun < SHORT_S + 1


@pytest.mark.usefixtures("short")
async def test_a_mail_server_that_dawdles_over_every_reply_is_left_in_time() -> None:
    async def dawdle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in [b"220 welcome\r\n", *[b"250 taken\r\n"] * 4, b"354 go on\r\n", b"250 taken\r\n", b"221 bye\r\n"]:
            await asyncio.sleep(SHORT_S / 2)  # not one of them is late
            writer.write(reply)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(dawdle, "127.0.0.1", 0)
    begun = time.monotonic()
    port = server.sockets[0].getsockname()[1]
    where = mailing.server(f"smtp+plain://127.0.0.1:{port}")
    assert await mail_reason(Email(PEOPLE, where, "a@ops.example")) == f"127.0.0.1:{port} did not answer in time"
    assert time.monotonic() - begun < SHORT_S + 1
    server.close()


async def test_a_goodbye_that_is_not_heard_takes_nothing_back(authority: trustme.CA) -> None:
    with receivers.smtp(authority) as server:
        server.leaves_on_goodbye = True
        await email(server, "smtp").send(MESSAGE)
    assert len(server.mails) == 1


@pytest.mark.usefixtures("short")
async def test_a_service_that_hangs_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Service("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/")
    monkeypatch.setattr(opened._apprise, "notify", lambda **_: time.sleep(1.5))
    begun = time.monotonic()
    with pytest.raises(Undelivered, match="Slack did not answer in time"):
        await opened.send(MESSAGE)
    assert time.monotonic() - begun < SHORT_S + 0.5


def test_every_address_of_these_tests_is_private() -> None:
    assert not any(Private().allows("x", ip_address(f"127.0.0.{last}")) for last in (1, 2, 3, 4))
