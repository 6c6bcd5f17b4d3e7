"""A network that swallows what is sent, and resets nothing: nobody waits for it for ever."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import text

from opsplane import connections
from opsplane.config import Settings
from opsplane.db import Database, sqlstate
from opsplane.errors import ServiceUnavailable

MARGIN_S, PING_S, CLOSE_S, CONNECT_S = 1.0, 1.0, 0.2, 4.0  # a busy machine makes four connections in more than a second
LONGEST_S = 20
SLACK_S = 3.0  # a busy machine; who waits for silence itself waits for ever


class Wire:
    """A TCP port in front of PostgreSQL's socket, which can begin to swallow."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._swallows: list[asyncio.Event] = []
        self.port = 0
        self.swallow_new = False
        self.accepted = 0

    def swallow(self) -> None:
        """From now on nothing comes through on the connections there are."""
        for event in self._swallows:
            event.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        swallow = asyncio.Event()
        self._swallows.append(swallow)
        if self.swallow_new:
            swallow.set()
        back, forth = await asyncio.open_unix_connection(self._target)
        await asyncio.gather(_pass(reader, forth, swallow), _pass(back, writer, swallow))


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, swallow: asyncio.Event) -> None:
    with suppress(ConnectionError, asyncio.CancelledError):
        while data := await reader.read(65536):
            if not swallow.is_set():
                writer.write(data)
                await writer.drain()
    writer.close()


@pytest.fixture
async def wire(settings: Settings) -> AsyncIterator[Wire]:
    url = urlsplit(settings.database_url or "")
    [folder] = parse_qs(url.query)["host"]
    wire = Wire(f"{folder}/.s.PGSQL.{parse_qs(url.query).get('port', ['5432'])[0]}")
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    yield wire
    server.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "MARGIN_S": MARGIN_S, "PING_S": PING_S, "CLOSE_S": CLOSE_S, "CONNECT_S": CONNECT_S,
    }.items():  # fmt: skip
        monkeypatch.setattr(connections, name, value)


@asynccontextmanager
async def through(wire: Wire, settings: Settings, *, statement_timeout_s: int | None = 1) -> AsyncIterator[Database]:
    name = urlsplit(settings.database_url or "").path
    address = f"postgresql://postgres@127.0.0.1:{wire.port}{name}?ssl=disable"
    db = Database(settings.model_copy(update={"database_url": address}), statement_timeout_s=statement_timeout_s)
    try:
        yield db
    finally:
        await db.close()


@asynccontextmanager
async def at_most(seconds: float) -> AsyncIterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:  # most of what is measured ends with an exception
        took = time.monotonic() - started
        assert took < seconds + SLACK_S, f"it took {took:.1f} s"


async def pid(db: Database, wait_s: float = 0) -> int:
    async with db.reading() as session:
        if wait_s:
            await session.execute(text("SELECT pg_sleep(:s)"), {"s": wait_s})
        return int(await session.scalar(text("SELECT pg_backend_pid()")) or 0)


def busy(db: Database) -> int:
    return int(db.engine.sync_engine.pool.checkedout())  # type: ignore[attr-defined]


@pytest.mark.parametrize("asks", ["execute", "commit", "rollback", "executemany"])
async def test_a_question_that_is_swallowed_ends_soon_as_unreachable_and_its_connection_is_not_used_again(
    wire: Wire, settings: Settings, quick: None, asks: str
) -> None:
    async with through(wire, settings) as db:
        before = await pid(db)
        with pytest.raises(ServiceUnavailable, match="database cannot be reached"):
            async with at_most(1 + MARGIN_S), db.transaction() as tx:
                await tx.session.execute(text("SELECT 1"))
                wire.swallow()
                if asks == "execute":
                    await tx.session.execute(text("SELECT 1"))
                if asks == "executemany":
                    await tx.session.execute(text("SELECT CAST(:n AS int)"), [{"n": 1}, {"n": 2}])
                if asks == "rollback":
                    raise ServiceUnavailable("The database cannot be reached: says the caller.", service="test")
        assert busy(db) == 0
        assert await pid(db) != before


async def test_connections_that_fell_silent_in_the_pool_are_replaced_before_use(
    wire: Wire, settings: Settings, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "TRUSTED_S", 0)  # as if they had answered some time ago
    async with through(wire, settings) as db:
        before = set(await asyncio.gather(*(pid(db, 0.3) for _ in range(4))))
        assert len(before) == 4
        wire.swallow()
        async with at_most(PING_S + CLOSE_S):
            assert await pid(db) not in before
        async with at_most(CLOSE_S):
            after = set(await asyncio.gather(*(pid(db, 0.3) for _ in range(4))))
        assert len(after) == 4
        assert not after & before
        assert wire.accepted == 8


def test_the_waits_of_a_process_that_serves_add_up_to_less_than_the_longest_one_allowed() -> None:
    assert connections.PING_S + connections.CLOSE_S + connections.CONNECT_S <= LONGEST_S
    assert connections.STATEMENT_S + connections.MARGIN_S <= LONGEST_S


async def test_a_network_that_swallows_everything_is_reported_within_twenty_seconds(
    wire: Wire, settings: Settings, quick: None
) -> None:
    async with through(wire, settings) as db:
        await pid(db)
        wire.swallow()
        wire.swallow_new = True
        with pytest.raises(ServiceUnavailable):
            async with at_most(PING_S + CLOSE_S + CONNECT_S):
                await pid(db)
        assert busy(db) == 0


async def test_closing_does_not_wait_for_an_answer(wire: Wire, settings: Settings, quick: None) -> None:
    async with through(wire, settings) as db:
        await asyncio.gather(*(pid(db, 0.3) for _ in range(4)))
        wire.swallow()
        async with at_most(4 * CLOSE_S):
            await db.close()


async def test_the_servers_own_timeout_is_first_where_the_server_hears_us(
    wire: Wire, settings: Settings, quick: None
) -> None:
    async with through(wire, settings) as db:
        before = await pid(db)
        with pytest.raises(Exception, match="statement timeout") as caught:
            await pid(db, 5)
        assert sqlstate(caught.value) == "57014"
        assert await pid(db) == before


async def test_a_reader_that_asks_for_more_time_gets_it_on_both_sides(
    wire: Wire, settings: Settings, quick: None
) -> None:
    async with through(wire, settings) as db:
        async with db.reading(timeout_s=3) as session:
            await session.execute(text("SELECT pg_sleep(2)"))
            wire.swallow()
            with pytest.raises(Exception, match="closed"):
                async with at_most(3 + MARGIN_S):
                    await session.execute(text("SELECT 1"))
        with pytest.raises(Exception, match="statement timeout"):
            await pid(db, 2)


async def test_a_command_without_a_limit_may_take_its_time(wire: Wire, settings: Settings, quick: None) -> None:
    async with through(wire, settings, statement_timeout_s=None) as db:
        await pid(db, 1 + MARGIN_S + CONNECT_S)


async def test_a_caller_that_gives_up_leaves_no_connection_behind(wire: Wire, settings: Settings, quick: None) -> None:
    async with through(wire, settings) as db:
        await pid(db)
        wire.swallow()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), at_most(3):
                await pid(db)
        assert busy(db) == 0
        await pid(db)
