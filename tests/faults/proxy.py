"""A TCP proxy before PostgreSQL that can be a bad network, and that knows an answered COMMIT when it sees one."""

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

BACKEND_KEY, COMMAND_COMPLETE = b"K", b"C"
WRITES = (b"INSERT", b"UPDATE", b"DELETE")
READ_BYTES = 65_536
SLICE_BYTES = 1024


@dataclass
class Weather:
    """How the network is; all connections of a proxy have the same."""

    latency_s: float = 0.0  # for a question and its answer together
    bytes_per_s: float | None = None
    hold_commits_s: float = 0.0  # how long the answer to a COMMIT takes
    cut_commits: int = 0  # so many answers to a COMMIT of changes are lost, each with its connection


@dataclass
class Proxy:
    """One listener; give each process its own, and a fault can hit one process alone."""

    target: Path
    weather: Weather = field(default_factory=Weather)
    port: int = 0
    links: set["Link"] = field(default_factory=set)
    commits_held: int = 0  # at this moment
    _through: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen on a free port of the loopback."""
        self._through.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listen no more, and end every connection."""
        assert self._server is not None
        self._server.close()
        self.reset()
        while self.links:
            await asyncio.sleep(0.01)

    @property
    def backends(self) -> list[int]:
        """Process ids of the server's side of every connection."""
        return sorted(link.backend for link in self.links if link.backend)

    @property
    def swallowing(self) -> bool:
        """Whether bytes vanish at the moment."""
        return not self._through.is_set()

    def reset(self) -> None:
        """End every connection as a router that forgot them would."""
        for link in list(self.links):
            link.reset()

    async def half_open(self, seconds: float) -> None:
        """Swallow every byte both ways for a while, also of new connections; then reset them all."""
        self._through.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.reset()
            self._through.set()

    async def hold_commit(self) -> None:
        """Keep an answer back for as long as the weather says."""
        self.commits_held += 1
        await asyncio.sleep(self.weather.hold_commits_s)
        self.commits_held -= 1

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(self, writer)
        self.links.add(link)
        try:
            await link.carry(reader)
        finally:
            link.reset()
            self.links.discard(link)


class Link:
    """One client's connection and the server's side of it."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter) -> None:
        self.backend = 0
        self._proxy, self._client = proxy, client
        self._server: asyncio.StreamWriter | None = None
        self._over = asyncio.Event()
        self._wrote = False

    async def carry(self, reader: asyncio.StreamReader) -> None:
        """Carry bytes until one side ends or the link is reset."""
        if self._proxy.swallowing:
            await self._over.wait()
            return
        with suppress(OSError):
            answers, self._server = await asyncio.open_unix_connection(str(self._proxy.target))
            ways = [self._questions(reader), self._answers(answers), self._over.wait()]
            tasks = [asyncio.create_task(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def reset(self) -> None:
        """Drop both sides at once; whatever is under way is lost."""
        self._over.set()
        for side in (self._client, self._server):
            if side is not None:
                _abort(side)

    async def _questions(self, reader: asyncio.StreamReader) -> None:
        assert self._server is not None
        while data := await self._read(reader):
            await self._pass(data, self._server)

    async def _answers(self, reader: asyncio.StreamReader) -> None:
        frames = Frames()
        while data := await self._read(reader):
            passed = bytearray()
            for kind, frame in frames.split(data):
                if kind == COMMAND_COMPLETE and await self._lost(frame):
                    await self._pass(bytes(passed), self._client)
                    return self.reset()
                if kind == BACKEND_KEY:
                    self.backend = struct.unpack_from("!I", frame, 5)[0]
                passed += frame
            await self._pass(bytes(passed), self._client)
        return None

    async def _lost(self, frame: bytes) -> bool:
        """Whether this answer is to be lost; it is written down by then, whoever asked will never know."""
        tag, weather = frame[5:-1], self._proxy.weather
        if tag.startswith(WRITES) and not tag.endswith(b" 0"):
            self._wrote = True
        if tag not in {b"COMMIT", b"ROLLBACK"}:
            return False
        wrote, self._wrote = self._wrote, False
        if tag == b"ROLLBACK" or not wrote:
            return False
        await self._proxy.hold_commit()
        if weather.cut_commits > 0:
            weather.cut_commits -= 1
            return True
        return False

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        """The next bytes, none at the end; nothing comes of what a half-open connection swallows, not even its end."""
        data = await reader.read(READ_BYTES)
        if self._proxy.swallowing:
            await self._over.wait()
            return b""
        return data

    async def _pass(self, data: bytes, to: asyncio.StreamWriter) -> None:
        weather = self._proxy.weather
        await asyncio.sleep(weather.latency_s / 2)
        for at in range(0, len(data), SLICE_BYTES):  # the weather may change on the way
            part = data[at : at + SLICE_BYTES]
            await asyncio.sleep(len(part) / weather.bytes_per_s if weather.bytes_per_s else 0)
            if self._proxy.swallowing:
                await self._over.wait()
                return
            to.write(part)
            await to.drain()


class Frames:
    """The messages of a PostgreSQL server, cut out of its stream as far as it is there."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False

    def split(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Every whole message with its kind; a part of one is kept for the next call."""
        data = self._rest + data
        at = 0
        if data and not self._begun:
            self._begun = True
            if data[:1] in {b"N", b"S"}:  # the bare answer to "may this be encrypted?"
                yield b"", data[:1]
                at = 1
        while len(data) >= at + 5:
            end = at + 1 + struct.unpack_from("!I", data, at + 1)[0]
            if end > len(data):
                break
            yield data[at : at + 1], data[at:end]
            at = end
        self._rest = data[at:]


def _abort(side: asyncio.StreamWriter) -> None:
    transport = side.transport
    known: socket.socket | None = transport.get_extra_info("socket")
    if known is not None and known.family == socket.AF_INET and not transport.is_closing():
        with suppress(OSError):  # a reset, not a farewell
            known.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
