"""One HTTPS request to a URL that somebody typed in: it reaches what is public, or what the installation names."""

import asyncio
import re
import socket
import ssl
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

import httpcore

from opsplane.alerts.channels import base, tls
from opsplane.alerts.channels.base import Undelivered
from opsplane.config import Settings

Address = IPv4Address | IPv6Address
CONNECT_S = 5.0  # from the name's look-up to the connection
TRIED = 4  # addresses of one name
LOOK_UPS = ThreadPoolExecutor(max_workers=4, thread_name_prefix="name-look-up")
URL_LENGTH = 2000
MOST_PATIENCE_S = 3600.0
NAT64 = IPv6Network("64:ff9b::/96")
GLOBAL_UNICAST = IPv6Network("2000::/3")
# Versions of Python differ in what they call global; these are never anybody's web server.
NEVER_PUBLIC = tuple(
    ip_network(network)
    for network in (
        "192.0.0.0/24",
        "192.88.99.0/24",
        "2001::/23",
        "2002::/16",
        "3fff::/20",
    )  # the last two: 6to4, examples in books
)
_HOST_NAME = re.compile(r"([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.?")


@dataclass(frozen=True)
class Private:
    """What may be reached although its address is not public."""

    names: frozenset[str] = frozenset()
    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> "Private":
        """What `OPSPLANE_ALERT_PRIVATE_HOSTS` says; start-up has checked it."""
        names, networks = set[str](), list[IPv4Network | IPv6Network]()
        for entry in settings.private_hosts:
            try:
                networks.append(ip_network(entry))
            except ValueError:
                names.add(entry.lower())
        return cls(frozenset(names), tuple(networks))

    def allows(self, host: str, address: Address) -> bool:
        """Whether a connection to this address, which `host` stands for, may be made."""
        real = _real(address)
        return _public(real) or host in self.names or any(real in network for network in self.networks)


def parse(url: str) -> httpcore.URL:
    """Read the URL of a receiver.

    Raises:
        ValueError: in a sentence for whoever typed it.
    """
    if len(url) > URL_LENGTH or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"The URL must be plain ASCII without spaces, {URL_LENGTH:,} characters at most.")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        raise ValueError("The URL's host or port is not one.") from None
    if parts.scheme != "https":
        raise ValueError("The URL must start with https://.")
    if "@" in parts.netloc:
        raise ValueError("The URL must not hold a user or a password.")
    if _literal(host) is None and _HOST_NAME.fullmatch(host) is None:
        raise ValueError("The URL has no valid host.")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return httpcore.URL(scheme=b"https", host=host.rstrip(".").encode(), port=port, target=target.encode())


def refuse_private(url: str, private: Private) -> None:
    """Refuse an address that is written out and may not be reached; a name is judged whenever it is used.

    Raises:
        ValueError: in a sentence for whoever typed it.
    """
    host = parse(url).host.decode()
    address = _literal(host)
    if address is not None and not private.allows(host, address):
        raise ValueError(_not_public(host))


async def post(url: str, *, headers: Mapping[str, str], content: bytes, private: Private) -> None:
    """Make one HTTPS POST, without proxies and redirects; a 2xx is delivery, and nobody waits for its body.

    Raises:
        Undelivered: with a reason that holds the URL's host and nothing more of it, nor words of the answer.
    """
    try:
        target = parse(url)
    except ValueError as error:
        raise Undelivered(str(error)) from None
    host = target.host.decode()
    try:
        async with asyncio.timeout(base.SEND_S):
            status, answered = await _exchange(target, headers, content, private)
    except (TimeoutError, httpcore.TimeoutException):
        raise Undelivered(f"{host} did not answer in time") from None
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        reason = tls.trouble(host, error) or f"{host} ended the connection without an answer"
        raise Undelivered(reason) from None
    if not 200 <= status < 300:
        raise Undelivered(_refusal(host, status), retry_after_s=_patience(status, answered))


async def _exchange(
    target: httpcore.URL, headers: Mapping[str, str], content: bytes, private: Private
) -> tuple[int, dict[bytes, bytes]]:
    """The status and headers of the answer; what follows them is not read."""
    timeouts = {"connect": CONNECT_S, "read": base.SEND_S, "write": base.SEND_S, "pool": base.SEND_S}
    sent = [("Host", host_header(target)), ("User-Agent", "opsplane"), *headers.items()]
    encoded = [(name.encode(), value.encode()) for name, value in sent]
    backend = _Allowed(private)
    async with (
        aclosing(backend),
        httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(), network_backend=backend, max_connections=1
        ) as pool,
        pool.stream("POST", target, headers=encoded, content=content, extensions={"timeout": timeouts}) as response,
    ):
        return response.status, {name.lower(): value for name, value in response.headers}


class _Allowed(httpcore.AsyncNetworkBackend):
    """Connects only to addresses that are allowed.

    The name is looked up here, once, and the connection goes to the very address that was judged: what the name
    server says a moment later changes nothing.
    """

    def __init__(self, private: Private) -> None:
        self._private = private
        self._inner = httpcore.AnyIOBackend()
        self._made: list[httpcore.AsyncNetworkStream] = []

    async def aclose(self) -> None:
        """Close what was connected; httpcore forgets a connection whose TLS handshake is cancelled."""
        for stream in self._made:
            await stream.aclose()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,  # noqa: ARG002 - httpcore's signature
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                return await self._connected(host, await self._addresses(host, port), port, timeout or CONNECT_S)
        except TimeoutError:
            raise httpcore.ConnectTimeout from None

    async def _addresses(self, host: str, port: int) -> list[Address]:
        try:
            # Not the loop's own threads: passwords are checked there, and a name server may be slow.
            look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
            found = await asyncio.get_running_loop().run_in_executor(LOOK_UPS, look_up)
        except (OSError, UnicodeError):
            raise Undelivered(f"The name server knows no {host}") from None
        addresses = dict.fromkeys(ip_address(entry[4][0]) for entry in found)
        allowed = [address for address in addresses if self._private.allows(host, address)]
        if not allowed:
            raise Undelivered(_not_public(host))
        return allowed[:TRIED]

    async def _connected(
        self, host: str, addresses: list[Address], port: int, timeout: float
    ) -> httpcore.AsyncNetworkStream:
        for address in addresses:
            try:
                stream = await self._inner.connect_tcp(str(address), port, timeout=timeout / len(addresses))
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
            self._made.append(stream)
            return stream
        raise Undelivered(f"{host} could not be reached")


def _literal(host: str) -> Address | None:
    """The address that the host spells, as everything that looks up names would read it: 127.1 is 127.0.0.1."""
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host.rstrip(".")))
    except (OSError, ValueError):
        return None


def _real(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address


def _public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address not in GLOBAL_UNICAST:
        return False
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in NEVER_PUBLIC)
    )


def _not_public(host: str) -> str:
    return f"{host} is not a public address; OPSPLANE_ALERT_PRIVATE_HOSTS lists the others that alerts may reach."


def host_header(target: httpcore.URL) -> str:
    """The host, and the port unless it goes without saying."""
    host = target.host.decode()
    bracketed = f"[{host}]" if ":" in host else host
    return bracketed if target.port in {None, 443} else f"{bracketed}:{target.port}"


def _refusal(host: str, status: int) -> str:
    try:
        phrase = f"{status} {HTTPStatus(status).phrase}"  # ours, for theirs may say anything
    except ValueError:
        phrase = str(status)
    redirects = "; redirects are not followed" if 300 <= status < 400 else ""
    return f"{host} answered {phrase}{redirects}"


def _patience(status: int, headers: Mapping[bytes, bytes]) -> float | None:
    """Seconds that the receiver asks us to wait, an hour at most."""
    if status not in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        return None
    asked = headers.get(b"retry-after", b"").decode("latin-1").strip()
    try:
        seconds = float(asked) if asked.isascii() and asked.isdigit() else _until(asked)
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), MOST_PATIENCE_S)


def _until(date: str) -> float:
    at = parsedate_to_datetime(date)
    aware = at if at.tzinfo else at.replace(tzinfo=UTC)
    return (aware - datetime.now(UTC)).total_seconds()
