"""Receivers of alerts on loopback: real TLS, real SMTP, with a certificate authority of the tests' own.

They answer from a thread of their own, so that a test may wait for a command meanwhile.
"""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Request:
    """What a receiver was sent."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.time)


@dataclass
class Receiver:
    """An HTTPS server; `answer` may be changed while it runs."""

    port: int = 0
    address: str = "127.0.0.1"
    answer: Answer = field(default_factory=lambda: answers(200))
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    def url(self, host: str = "127.0.0.1", path: str = "/hook/s3cret?key=s3cret") -> str:
        return f"https://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append(await _request(reader))
            await self.answer(writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the sender has left
        finally:
            writer.close()


@dataclass
class MailServer:
    """An SMTP server; `refuses` are recipients that it does not take."""

    port: int = 0
    login: tuple[str, str] | None = None
    refuses: set[str] = field(default_factory=set)
    mails: list[EmailMessage] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    connections: int = 0
    leaves_on_goodbye: bool = False

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(server.transport, asyncio.Transport)
        if self.leaves_on_goodbye:
            server.transport.abort()
        return "221 2.0.0 bye"

    async def handle_RCPT(self, server: SMTP, session: Session, envelope: Envelope, address: str, _: Any) -> str:  # noqa: N802
        if address in self.refuses:
            return "550 5.1.1 no such user, and your password is s3cret"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        assert server.transport is not None
        self.mails.append(message_from_bytes(envelope.content, _class=EmailMessage, policy=policy.default))
        self.arrived.append(time.time())
        self.recipients += envelope.rcpt_tos
        self.encrypted.append(session.ssl is not None or server.transport.get_extra_info("ssl_object") is not None)
        return "250 2.0.0 taken"

    def authenticate(self, server: SMTP, session: Session, envelope: Envelope, how: str, given: Any) -> AuthResult:
        assert isinstance(given, LoginPassword)
        fits = (given.login.decode(), given.password.decode()) == self.login
        return AuthResult(success=fits, handled=False, message=None if fits else "535 5.7.8 s3cret is wrong")


def answers(status: int, body: bytes = b"s3cret words of the receiver", **headers: str) -> Answer:
    """Answer each request like this; `_` in a header's name is a hyphen."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status} s3cret", f"Content-Length: {len(body)}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    return answer


async def hangs(writer: asyncio.StreamWriter) -> None:
    """Read the request and never answer."""
    await asyncio.sleep(3600)


async def hangs_up(writer: asyncio.StreamWriter) -> None:
    """Read the request and close the connection."""


async def hangs_in_the_body(writer: asyncio.StreamWriter) -> None:
    """Say that all is well, begin the body, and never end it."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{")
    await writer.drain()
    await asyncio.sleep(3600)


async def drips_headers(writer: asyncio.StreamWriter) -> None:
    """Send a header a moment, for ever; no single read takes long."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(1_000_000):
        writer.write(f"X-{number}: drip\r\n".encode())
        await writer.drain()
        await asyncio.sleep(0.02)


@contextmanager
def https(
    authority: trustme.CA, *names: str, address: str = "127.0.0.1", port: int = 0, answer: Answer | None = None
) -> Iterator[Receiver]:
    """An HTTPS server whose certificate is for these names, else for 127.0.0.1 and localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*(names or ("127.0.0.1", "localhost"))).configure_cert(context)
    receiver = Receiver(address=address, answer=answer or answers(200))
    with _listening(receiver, address, port) as listener, _background() as run:

        async def serve() -> asyncio.AbstractServer:
            return await asyncio.start_server(receiver.serve, sock=listener, ssl=context)

        run(serve())
        yield receiver


@contextmanager
def smtp(
    authority: trustme.CA, *, tls: str = "starttls", login: tuple[str, str] | None = None, name: str = "localhost"
) -> Iterator[MailServer]:
    """An SMTP server; `tls` is starttls, implicit or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, "127.0.0.1").configure_cert(context)
    server, connections = MailServer(login=login), list[SMTP]()

    def connected() -> SMTP:
        server.connections += 1
        connections.append(
            SMTP(
                server,
                hostname="mail.test",
                tls_context=context if tls == "starttls" else None,
                authenticator=server.authenticate,
                auth_require_tls=tls == "starttls",
            )
        )
        return connections[-1]

    with socket.create_server(("127.0.0.1", 0)) as listener, _background() as run:
        server.port = listener.getsockname()[1]

        async def serve() -> asyncio.AbstractServer:
            loop = asyncio.get_running_loop()
            return await loop.create_server(connected, sock=listener, ssl=context if tls == "implicit" else None)

        run(serve())
        yield server
        time.sleep(0.1)  # a connection that was accepted just now is made by then, and can be ended
        for connection in connections:  # which a client may have left open
            if isinstance(connection.transport, asyncio.WriteTransport):
                connection.loop.call_soon_threadsafe(connection.transport.abort)


@contextmanager
def deaf() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def trust(authority: trustme.CA, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have this process, and those it starts, trust the authority and no other; returns the file to trust."""
    file = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    return file


async def _request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1)[:1] + line.split(": ", 1)[1:] for line in head[1:] if line)
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(head[0].split(" ")[1], headers, body)


class _Counting(socket.socket):
    """Counts the connections it takes; those whose TLS fails never reach a server's own code."""

    receiver: Receiver

    def accept(self) -> tuple[socket.socket, Any]:
        taken = super().accept()
        self.receiver.connections += 1
        return taken


@contextmanager
def _listening(receiver: Receiver, address: str, port: int) -> Iterator[socket.socket]:
    with _Counting(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.receiver = receiver
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        receiver.port = listener.getsockname()[1]
        yield listener


@contextmanager
def _background() -> Iterator[Callable[[Coroutine[Any, Any, asyncio.AbstractServer]], None]]:
    """A thread with an event loop; the servers that are started in it end with it."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # handshakes that fail are what some tests are about
    thread = threading.Thread(target=loop.run_forever, name="receivers", daemon=True)
    thread.start()
    servers: list[asyncio.AbstractServer] = []
    try:
        yield lambda serving: servers.append(asyncio.run_coroutine_threadsafe(serving, loop).result(timeout=10))
    finally:
        asyncio.run_coroutine_threadsafe(_end(servers), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()


async def _end(servers: list[asyncio.AbstractServer]) -> None:
    for server in servers:
        server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)
