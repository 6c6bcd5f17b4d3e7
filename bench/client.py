"""A small HTTP client: one that did more would be what is measured."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit


@dataclass
class Answer:
    """A response."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The document.

        Raises:
            RuntimeError: the server refused.
        """
        if self.status >= 400:
            raise RuntimeError(f"{self.status}: {self.body.decode()}")
        return json.loads(self.body)


class Client:
    """One connection that is kept, and made anew when the server has tired of waiting; with a bearer token."""

    def __init__(self, address: str, token: str) -> None:
        url = urlsplit(address)
        self._host, self._port = url.hostname, url.port
        self._headers = f"Host: {url.netloc}\r\nAuthorization: Bearer {token}\r\nAccept: application/json\r\n"

    @classmethod
    async def connected(cls, address: str, token: str) -> Self:
        """A client of this server.

        Raises:
            OSError: it does not listen.
        """
        client = cls(address, token)
        await client._connect()
        return client

    async def get(self, path: str) -> Answer:
        """Ask."""
        return await self._ask(f"GET {path} HTTP/1.1\r\n{self._headers}\r\n".encode())

    async def post(self, path: str, document: dict[str, Any]) -> Answer:
        """Ask for something to be done."""
        body = json.dumps(document).encode()
        head = f"POST {path} HTTP/1.1\r\n{self._headers}Content-Type: application/json\r\nContent-Length: {len(body)}"
        return await self._ask(head.encode() + b"\r\n\r\n" + body)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    async def _connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)

    async def _ask(self, request: bytes) -> Answer:
        if self._reader.at_eof():
            self._writer.close()
            await self._connect()
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        begins = lower.index(b"content-length:") + len(b"content-length:")
        length = int(lower[begins : lower.index(b"\r\n", begins)])
        return Answer(int(head[9:12]), await self._reader.readexactly(length))
