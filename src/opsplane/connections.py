"""Connections to PostgreSQL, direct or pooled: how they are made, checked before use, and given up when silent."""

import asyncio
import socket
import time
from typing import Any

import asyncpg
import orjson
import structlog
from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import AdaptedConnection
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from opsplane.config import Pooler, Settings

log = structlog.get_logger()

CONNECT_S = 10
PING_S = 5
TRUSTED_S = 0.5  # a connection that answered so lately is not asked first whether it still lives
CLOSE_S = 1
POOL_S = 10  # to wait for a connection while all are busy
STATEMENT_S = 15  # of processes that serve: nobody waits longer for a page
SESSION = {"timezone": "UTC", "default_transaction_isolation": "read committed"}  # statements alone say no BEGIN
KEEP_ALIVE = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "2"}
MARGIN_S = 3  # so that the server's own timeout is first where the server still hears us


class Watched(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection that ends itself when an answer takes longer than the question may.

    Its caller then sees a lost connection at once. asyncpg's own timeouts ask the server to cancel and wait for
    it to say so, which a server that no longer hears us never does.
    """

    patience_s: float | None = None
    opening = ""  # follows BEGIN, where a pooler hands each transaction another session
    pooled = False

    def __init__(self, protocol: object, transport: asyncio.Transport, *rest: object) -> None:
        super().__init__(protocol, transport, *rest)
        self.new = True
        self.silent = False
        self._answered_at = 0.0
        self._deadline: float | None = None
        self._alarm: asyncio.TimerHandle | None = None
        _keep_alive(transport.get_extra_info("socket"))
        self.expect_answer(CONNECT_S)

    async def execute(self, query: str, *arguments: object, timeout: float | None = None) -> str:
        """Run SQL; in the same round trip as BEGIN, set what holds for the transaction."""
        if query.startswith("BEGIN"):
            query += self.opening
        return str(await super().execute(query, *arguments, timeout=timeout))

    def is_in_transaction(self) -> bool:
        """Whether one is open; asyncpg's own fails on a connection that is closed."""
        return not self.is_closed() and bool(super().is_in_transaction())

    def expect_answer(self, within_s: float | None) -> None:
        """Something was asked, or nothing; an earlier question's time no longer counts."""
        if within_s is None:
            self._deadline = None  # the alarm will find nothing to do: statements are many, and alarms cost more
            return
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + within_s
        if self._alarm is None or self._alarm.when() > self._deadline:
            self._set_alarm(loop, self._deadline)

    def answered(self) -> None:
        """It lives, and nothing more is awaited from it."""
        self._answered_at = time.monotonic()
        self.expect_answer(None)

    @property
    def is_trusted(self) -> bool:
        """Whether it lives, by what is known without asking."""
        return not self.is_closed() and time.monotonic() - self._answered_at < TRUSTED_S

    def end(self, within_s: float) -> None:
        """A graceful end is under way; it may take so long."""
        self.expect_answer(None)
        asyncio.get_running_loop().call_later(within_s, self.terminate)

    def _set_alarm(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = loop.call_at(at, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._alarm = None
        if self._deadline is None:
            return
        if loop.time() < self._deadline:
            self._set_alarm(loop, self._deadline)
            return
        log.warning("database_silent")
        self.silent = True
        self.terminate()


def engine(settings: Settings, *, application: str, statement_timeout_s: int | None, apart: int = 0) -> AsyncEngine:
    """An engine whose connections the server limits, and which limit the server; `apart` of them are for others.

    Without `statement_timeout_s` a statement may take for ever, as long as the network is alive.
    """
    limits = {
        # Shorter than a lease: a frozen process loses its row locks before its tenant is given away.
        "idle_in_transaction_session_timeout": "15s",
        "lock_timeout": "5s",
        "statement_timeout": f"{statement_timeout_s or 0}s",
    }
    made = create_async_engine(
        settings.sqlalchemy_url,
        isolation_level="READ COMMITTED",
        pool_size=settings.pool_size - apart,
        max_overflow=0,
        pool_timeout=POOL_S,
        pool_use_lifo=True,  # the one used last knows the statements, and how to plan them
        hide_parameters=True,
        connect_args=_arguments(settings, application, limits)
        | {"command_timeout": _longest(settings, statement_timeout_s)},
    )
    _watch(made, _opening(settings, limits), patience_s(statement_timeout_s))
    return made


def patience_s(statement_timeout_s: int | None) -> float | None:
    """How long to wait for an answer that the server itself gives up on after so long."""
    return None if statement_timeout_s is None else statement_timeout_s + MARGIN_S


def migrating(settings: Settings) -> AsyncEngine:
    """An engine for migrations, which wait for locks and take their time."""
    limits = {"idle_in_transaction_session_timeout": "0", "lock_timeout": "0", "statement_timeout": "0"}
    made = create_async_engine(
        settings.sqlalchemy_url,
        isolation_level="READ COMMITTED",
        poolclass=NullPool,
        connect_args=_arguments(settings, "opsplane-migrate", limits),
    )
    _watch(made, _opening(settings, limits), None)
    return made


async def apart(of: AsyncEngine, patience_s: float | None) -> Watched:
    """A connection that the engine has made, but its pool knows no more: for single statements that only read.

    Raises:
        ConnectionError: the database did not let us in.
    """
    try:
        made = await of.raw_connection()
    except of.dialect.loaded_dbapi.Error as error:  # of all its ways to connect, SQLAlchemy does not wrap this one's
        raise ConnectionError(str(error)) from error
    driver = made.driver_connection
    assert isinstance(driver, Watched)
    made.detach()
    driver.expect_answer(patience_s)
    try:
        if not driver.opening:
            await driver.execute("SET default_transaction_read_only = on")
        for name, decode in (("json", orjson.loads), ("jsonb", _document)):
            await driver.set_type_codec(name, schema="pg_catalog", encoder=_never, decoder=decode, format="binary")
    except BaseException:
        driver.terminate()
        raise
    driver.answered()
    return driver


async def allow(session: AsyncSession, seconds: float) -> None:
    """From here on a statement on this session's connection may take so long, on our side of the network."""
    driver = driver_of((await session.connection()).sync_connection)
    if driver is not None and driver.patience_s is not None:
        driver.patience_s = seconds + MARGIN_S


def _document(binary: bytes) -> Any:
    return orjson.loads(memoryview(binary)[1:])  # a version, then text


def _never(_value: object) -> bytes:
    raise TypeError("what only reads sends no documents")


def _longest(settings: Settings, statement_timeout_s: int | None) -> float | None:
    # For what the watch does not see: rows that are fetched as a stream.
    return statement_timeout_s and max(statement_timeout_s, settings.preflight_timeout_s) + 2 * MARGIN_S


def _arguments(settings: Settings, application: str, limits: dict[str, str]) -> dict[str, Any]:
    common = {"timeout": CONNECT_S, "connection_class": Watched}
    if settings.database_pooler is Pooler.NONE:
        return common | {"server_settings": {"application_name": application, **SESSION, **KEEP_ALIVE, **limits}}
    # With its cache off asyncpg names no statement: what has a name would stay behind in a session of the pooler.
    return common | {
        "server_settings": {"application_name": application},
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
    }


def _opening(settings: Settings, limits: dict[str, str]) -> str:
    if settings.database_pooler is Pooler.NONE:
        return ""
    return "".join(f"SET LOCAL {name} = '{value}';" for name, value in (SESSION | limits).items())


def _keep_alive(sock: socket.socket | None) -> None:
    if sock is None or sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 2), ("TCP_USER_TIMEOUT", 20_000)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _watch(watched: AsyncEngine, opening: str, patience_s: float | None) -> None:
    def check(adapted: AdaptedConnection, _record: object, _proxy: object) -> None:
        driver: Any = adapted.driver_connection
        driver.patience_s = patience_s
        driver.opening = opening
        driver.pooled = bool(opening)
        if not (driver.new or driver.is_trusted):
            _ping(adapted, driver)
        driver.new = False
        driver.expect_answer(None)

    sync = watched.sync_engine
    event.listen(sync, "checkout", check)
    event.listen(sync, "before_cursor_execute", _asked)
    event.listen(sync, "after_cursor_execute", _told)
    event.listen(sync, "commit", _asked)
    event.listen(sync, "rollback", _asked)
    event.listen(sync, "checkin", _returned)
    event.listen(sync, "close", _closing)


def _ping(adapted: AdaptedConnection, driver: Watched) -> None:
    # One round trip, and no prepared statement; SQLAlchemy's own takes four.
    driver.expect_answer(PING_S)
    try:
        adapted.run_async(lambda connection: connection.execute("SELECT"))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise InvalidatePoolError from error
    driver.answered()


def _asked(connection: Connection, *_statement: object) -> None:
    if found := driver_of(connection):
        found.expect_answer(found.patience_s)


def _told(connection: Connection, *_statement: object) -> None:
    if found := driver_of(connection):
        found.answered()


def driver_of(connection: Connection | None) -> Watched | None:
    """The connection below SQLAlchemy's; None if it is lost."""
    if connection is None or connection.closed or connection.invalidated:
        return None
    driver = connection.connection.driver_connection
    assert isinstance(driver, Watched)
    return driver


def _returned(adapted: AdaptedConnection | None, _record: object) -> None:
    if adapted is not None and adapted.driver_connection is not None:
        adapted.driver_connection.expect_answer(None)


def _closing(adapted: AdaptedConnection, _record: object) -> None:
    if adapted.driver_connection is not None:
        adapted.driver_connection.end(CLOSE_S)
