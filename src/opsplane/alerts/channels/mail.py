"""Mail, handed to the one SMTP server of the installation."""

import asyncio
import re
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime
from functools import cache

import aiosmtplib
import jinja2
import structlog

from opsplane import data
from opsplane.alerts.channels import base, text, tls
from opsplane.alerts.channels.base import Undelivered
from opsplane.alerts.messages import Message
from opsplane.mailing import Server, Tls

log = structlog.get_logger()
GOODBYE_S = 1.0
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\b")  # RFC 3463: says more than the code, and no server's own words


@dataclass(frozen=True)
class Email:
    """Some people, by mail."""

    recipients: tuple[str, ...]
    server: Server
    sender: str

    async def send(self, message: Message) -> None:
        """Hand the message to the server; it is delivered once the server takes it for one recipient."""
        mail = composed(message, self.recipients, self.sender)
        client = _client(self.server)
        try:
            async with asyncio.timeout(base.SEND_S):
                await client.connect()
                refused, _ = await client.send_message(mail, sender=self.sender, recipients=list(self.recipients))
            with suppress(aiosmtplib.SMTPException, OSError):
                await client.quit(timeout=GOODBYE_S)
        except (aiosmtplib.SMTPException, OSError) as error:
            raise Undelivered(_reason(self.server, error)) from None
        finally:
            client.close()
        if refused:
            log.warning("mail_partly_refused", host=self.server.host, refused=len(refused), of=len(self.recipients))


def composed(message: Message, recipients: tuple[str, ...], sender: str) -> EmailMessage:
    """The mail, as text and as HTML; its Message-ID is the same each time, so that a repeat can be dropped."""
    mail = EmailMessage(policy=policy.SMTP)
    mail["Subject"] = f"[opsplane] {text.line(message.title)}"
    mail["From"] = sender
    mail["To"] = ", ".join(recipients)
    mail["Date"] = format_datetime(datetime.now(UTC))
    mail["Message-ID"] = f"<{message.key}@{sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-Opsplane-Key"] = message.key
    mail.set_content(f"{text.line(message.title)}\n\n{text.body(message)}", cte="quoted-printable")
    mail.add_alternative(_html(message), subtype="html", cte="quoted-printable")
    return mail


def _html(message: Message) -> str:
    severity, *facts = text.facts(message)
    template = _environment().get_template("mail/alert.html")
    return template.render(message=message, title=text.line(message.title), severity=severity[1], facts=facts)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(data.ROOT / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _client(server: Server) -> aiosmtplib.SMTP:
    return aiosmtplib.SMTP(
        hostname=server.host,
        port=server.port,
        username=server.user,
        password=server.password,
        use_tls=server.tls is Tls.AT_ONCE,
        start_tls=server.tls is Tls.STARTTLS,  # required then: without it nothing is sent
        tls_context=None if server.tls is Tls.NONE else ssl.create_default_context(),
        timeout=base.SEND_S,
    )


def _reason(server: Server, error: Exception) -> str:
    """What went wrong, without the server's own words: they may repeat what it was sent."""
    where = f"{server.host}:{server.port}"
    untrusted = tls.trouble(where, error)
    return untrusted or f"{where} {_what(server, error)}"


def _what(server: Server, error: Exception) -> str:
    match error:
        case TimeoutError():
            return "did not answer in time"
        case aiosmtplib.SMTPRecipientsRefused(recipients=[first, *_]):
            return f"refused every recipient, the first with {_code(first.code, first.message)}"
        case aiosmtplib.SMTPAuthenticationError():
            return f"refused the user or the password with {_code(error.code, error.message)}"
        case aiosmtplib.SMTPResponseException():
            return f"answered {_code(error.code, error.message)}"
        case OSError():
            return "could not be reached, or ended the connection"
    lacks = "no STARTTLS, or no log-in that we know" if server.tls is Tls.STARTTLS else "no log-in that we know"
    return f"offers {lacks}; nothing was sent"


def _code(code: int, said: str) -> str:
    enhanced = _ENHANCED.match(said)
    return f"{code} {enhanced.group()}" if enhanced else str(code)
