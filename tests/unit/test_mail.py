"""The mail that is sent, and where it is handed in."""

from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest

from opsplane import mailing
from opsplane.alerts.channels import mail
from opsplane.mailing import ADDRESS, Server, Tls
from tests.alerting import MESSAGE, message

PEOPLE = ("ops@example.com", "chief@example.com")
INJECTIONS = ["\r\nBcc: evil@example.net", "\nBcc: evil@example.net", "\r\n\r\n<h1>hello</h1>", "\x00\u2028\u202e"]


def composed(**changed: object) -> EmailMessage:
    sent = mail.composed(message(**changed), PEOPLE, "alerts@ops.example").as_bytes()
    return message_from_bytes(sent, _class=EmailMessage, policy=policy.default)


def part(found: EmailMessage, kind: str) -> str:
    body = found.get_body((kind,))
    assert isinstance(body, EmailMessage)
    return str(body.get_content()).replace("\r\n", "\n")


def test_the_headers_say_whose_mail_it_is_and_that_no_person_wrote_it() -> None:
    found = composed()
    assert found["Subject"] == "[opsplane] Rebuild Findings Lifecycle failed"
    assert (found["From"], found["To"]) == ("alerts@ops.example", "ops@example.com, chief@example.com")
    assert found["Auto-Submitted"] == "auto-generated"
    assert found["X-Opsplane-Key"] == MESSAGE.key
    assert found["Date"].datetime is not None
    assert found.get_content_type() == "multipart/alternative"


def test_a_repeat_has_the_message_id_of_the_first() -> None:
    assert composed()["Message-ID"] == composed()["Message-ID"] == f"<{MESSAGE.key}@ops.example>"


def test_both_parts_say_everything_and_lead_to_the_run() -> None:
    found = composed()
    for kind in ("plain", "html"):
        words = part(found, kind)
        for told in (MESSAGE.title, MESSAGE.link, "View run", "Critical", "3 failed of 250", "2026-11-21 20:42:22 UTC"):
            assert told in words, f"{kind} lacks {told}"


def test_html_takes_names_literally() -> None:
    words = part(composed(title="<script>a</script>", facts=(("<i>", '"><img src=x>'),)), "html")
    assert "<script>" not in words
    assert "<i>" not in words
    assert "<img" not in words


def test_html_loads_nothing() -> None:
    words = part(composed(), "html")
    assert "src=" not in words
    assert "url(" not in words
    assert words.count("http") == words.count(MESSAGE.link)


@pytest.mark.parametrize("injection", INJECTIONS)
def test_no_title_adds_a_header_or_ends_them(injection: str) -> None:
    sent = mail.composed(message(title=f"It failed{injection}"), PEOPLE, "alerts@ops.example").as_bytes()
    head = sent.split(b"\r\n\r\n")[0].decode()
    names = {line.split(":")[0] for line in head.split("\r\n") if not line.startswith(" ")}
    assert names == {
        "Subject", "From", "To", "Date", "Message-ID", "Auto-Submitted", "X-Opsplane-Key", "MIME-Version",
        "Content-Type",
    }  # fmt: skip


@pytest.mark.parametrize("injection", INJECTIONS)
def test_no_fact_adds_a_line(injection: str) -> None:
    plain = part(composed(facts=(("Scope", f"acme{injection}"),)), "plain")
    assert len(plain.splitlines()) == len(part(composed(facts=(("Scope", "acme"),)), "plain").splitlines())


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtps://u:p@mail.example", Server(host="mail.example", port=465, tls=Tls.AT_ONCE, user="u", password="p")),
        ("smtp://mail.example", Server(host="mail.example", port=587, tls=Tls.STARTTLS)),
        ("smtp+plain://10.0.0.5/", Server(host="10.0.0.5", port=25, tls=Tls.NONE)),
        (
            "smtp://ops%40example.com:p%3A%2F%40@mail.example:2525",
            Server(host="mail.example", port=2525, tls=Tls.STARTTLS, user="ops@example.com", password="p:/@"),
        ),
        ("smtp+plain://u:p@[::1]:1025", Server(host="::1", port=1025, tls=Tls.NONE, user="u", password="p")),
        ("smtp+plain://u:p@localhost", Server(host="localhost", port=25, tls=Tls.NONE, user="u", password="p")),
    ],
)
def test_a_server_is_read_from_its_url(url: str, server: Server) -> None:
    assert mailing.server(url) == server


@pytest.mark.parametrize(
    "url",
    [
        "mail.example",
        "https://s3cret@mail.example",
        "smtp://",
        "smtp://u:s3cret@",
        "smtp://u:s3cret/@mail.example",
        "smtp://u:s3cret@mail.example:99999",
        "smtp://s3cret@mail.example",
        "smtp://u:s3cret@mail.example/?x=1",
        "smtp+plain://u:s3cret@mail.example",
        "smtp+plain://u:s3cret@10.0.0.5",
    ],
)
def test_a_bad_server_is_refused_in_words_without_the_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"must be|needs both|in the clear") as caught:
        mailing.server(url)
    assert "s3cret" not in str(caught.value)


def test_a_servers_password_does_not_show() -> None:
    assert "s3cret" not in repr(mailing.server("smtps://u:s3cret@mail.example"))


@pytest.mark.parametrize("address", ["ops@example.com", "o.p+s_1@mail.example.com", "root@localhost"])
def test_plain_addresses_are_addresses(address: str) -> None:
    assert ADDRESS.fullmatch(address)


@pytest.mark.parametrize(
    "address",
    [
        "ops", "@example.com", "ops@", "a b@example.com", "ops@example.com\n", "ops@example.com\r\nBcc: x@y.z",
        "Ops <ops@example.com>", "ops@example.com,evil@example.net", '"ops"@example.com', "öps@example.com",
        "ops@exämple.com", "ops@[127.0.0.1]", f"{'a' * 65}@example.com", f"ops@{'a.' * 130}com",
    ],
)  # fmt: skip
def test_nothing_else_is_an_address(address: str) -> None:
    assert not ADDRESS.fullmatch(address)
