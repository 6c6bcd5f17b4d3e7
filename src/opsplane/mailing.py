"""Where mail is handed in, and what an address of mail looks like."""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

# Narrower than RFC 5321: no quotes, no comments, nothing outside ASCII; no address can end a header or a command.
ADDRESS = re.compile(
    r"[a-z0-9_.!#$%&'*+/=?^`{|}~-]{1,64}@(?=.{1,253}\Z)[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*", re.IGNORECASE | re.ASCII
)


class Tls(StrEnum):
    """When encryption begins; the value is the scheme of the setting."""

    AT_ONCE = "smtps"
    STARTTLS = "smtp"
    NONE = "smtp+plain"


PORTS = {Tls.AT_ONCE: 465, Tls.STARTTLS: 587, Tls.NONE: 25}


@dataclass(frozen=True, kw_only=True)
class Server:
    """An SMTP server that takes mail from us."""

    host: str
    port: int
    tls: Tls
    user: str | None = None
    password: str | None = field(default=None, repr=False)


def server(url: str) -> Server:
    """Read `smtps://user:password@host:465` and its like.

    Raises:
        ValueError: in one line, which never repeats a part of the URL.
    """
    try:
        parts = urlsplit(url)
        port, tls = parts.port, Tls(parts.scheme)
    except ValueError:
        raise ValueError("must be smtps://, smtp:// or smtp+plain:// with a host and perhaps a port") from None
    if not parts.hostname or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError("must be like smtps://user:password@host:465; percent-encode special characters in it")
    if (parts.username is None) != (parts.password is None):
        raise ValueError("needs both a user and a password, or neither")
    if tls is Tls.NONE and parts.username is not None and not _loopback(parts.hostname):
        raise ValueError("smtp+plain:// would send the password in the clear; use smtp:// (STARTTLS) or smtps://")
    return Server(
        host=parts.hostname,
        port=PORTS[tls] if port is None else port,
        tls=tls,
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
