"""Lookups: single statements that only read, each a transaction of its own, straight to the driver.

What every request needs, such as who asks, would spend more on a session, its BEGIN and its COMMIT than on itself.
Statements in this form also run in a session's transaction, where they may write: see `direct.directly`.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from sqlalchemy import BindParameter, ReturnsRows, TypeDecorator, UpdateBase, bindparam
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.types import TypeEngine

from opsplane import connections
from opsplane.connections import Watched

Rows = list[Any]  # row["column"]
Process = Callable[[Any], Any]

LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
_DIALECT = dialect()  # type: ignore[no-untyped-call]


def parameter(name: str, type_: Any = None) -> BindParameter[Any]:
    """What is given anew each time; of the type of the column it is compared with, unless another is named."""
    return bindparam(name, None, type_=type_)  # without a value SQLAlchemy would ask for one as it compiles


@dataclass(frozen=True)
class Lookup:
    """A statement as the driver takes it; parameters that are not given have the value they were built with."""

    sql: str
    names: tuple[str, ...]
    values: dict[str, Any]
    processors: dict[str, Process] = field(default_factory=dict)

    @classmethod
    def of(cls, statement: ReturnsRows | UpdateBase, columns: Sequence[str] | None = None) -> "Lookup":
        """Compile a statement, once: that takes longer than to run it. `columns` are those that an INSERT is given."""
        keys = None if columns is None else list(columns)
        compiled: Any = statement.compile(dialect=_DIALECT, column_keys=keys)
        expanded = compiled.construct_expanded_state(compiled.params)  # lists have a parameter for each of their values
        processors = _processors(compiled.bind_names) | dict(expanded.processors)
        return cls(expanded.statement, tuple(expanded.positiontup or ()), dict(expanded.parameters), processors)

    def arguments(self, given: dict[str, Any]) -> list[Any]:
        """The values in the order of the parameters."""
        known = self.values | given
        for name, process in self.processors.items():
            known[name] = process(known[name])
        return [known[name] for name in self.names]


def as_stored(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    """The type below an application's own one: what the driver itself takes and gives."""
    while isinstance(type_, TypeDecorator):
        type_ = type_.load_dialect_impl(_DIALECT)
    return type_


def _processors(parameters: Mapping[BindParameter[Any], str]) -> dict[str, Process]:
    """What makes of values what the driver takes, for those parameters that need it."""
    found = {name: _process(one) for one, name in parameters.items()}
    return {name: process for name, process in found.items() if process is not None}


def _process(one: BindParameter[Any]) -> Process | None:
    """A value that is called for is called for each time, and not once as it is compiled.

    Raises:
        TypeError: a list is called for; how long it will be, nobody knows yet.
    """
    process: Process | None = one.type.dialect_impl(_DIALECT).bind_processor(_DIALECT)
    value = one.callable
    if value is None:
        return None if one.expanding else process
    if one.expanding:
        raise TypeError(f"the parameter {one.key} of an IN cannot call for its list")
    return lambda _then: value() if process is None else process(value())


@dataclass
class _Free:
    connection: Watched
    since: float


@dataclass
class Lookups:
    """A few connections for lookups, made when needed; `limit` of them at most."""

    engine: AsyncEngine
    limit: int
    patience_s: float | None
    pooled: bool = False
    _free: list[_Free] = field(default_factory=list)
    _places: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._places = asyncio.Semaphore(self.limit)

    async def rows(self, wanted: Lookup, given: dict[str, Any]) -> Rows:
        """The rows; a connection that was lost while nobody used it is replaced without a word.

        Raises:
            ConnectionError: the database is away.
            sqlalchemy.exc.TimeoutError: every connection is busy.
        """
        if self._places.locked():
            try:
                await asyncio.wait_for(self._places.acquire(), connections.POOL_S)
            except TimeoutError:
                raise PoolTimeout from None
        else:
            await self._places.acquire()
        try:
            return await self._rows(wanted, given)
        finally:
            self._places.release()

    async def _rows(self, wanted: Lookup, given: dict[str, Any]) -> Rows:
        while True:
            connection, is_new = await self._connection()
            try:
                return await self._asked(connection, wanted, given)
            except LOST as error:
                self._forget()
                if is_new or connection.silent:
                    raise ConnectionError(str(error)) from error

    async def warm(self, number: int) -> None:
        """Open so many connections; nobody is looking yet.

        Raises:
            ConnectionError: the database is away.
        """
        for _ in range(number):
            opened = await connections.apart(self.engine, self.patience_s)
            self._free.append(_Free(opened, time.monotonic()))

    async def close(self) -> None:
        """Close every connection; nobody must be looking."""
        free, self._free = self._free, []
        for one in free:
            one.connection.end(connections.CLOSE_S)
            await one.connection.close()

    async def _connection(self) -> tuple[Watched, bool]:
        while self._free:
            one = self._free.pop()
            if time.monotonic() - one.since < connections.TRUSTED_S or await _lives(one.connection):
                return one.connection, False
        return await connections.apart(self.engine, self.patience_s), True

    async def _asked(self, connection: Watched, wanted: Lookup, given: dict[str, Any]) -> Rows:
        connection.expect_answer(self.patience_s)
        try:
            rows = await self._fetched(connection, wanted, given)
        except asyncpg.PostgresError as error:
            connection.answered()
            if isinstance(error, LOST):
                connection.terminate()
            else:
                self._free.append(_Free(connection, time.monotonic()))
            raise
        except BaseException:  # among others, the caller was cancelled: what the connection is at, nobody knows
            connection.terminate()
            raise
        connection.answered()
        self._free.append(_Free(connection, time.monotonic()))
        return rows

    async def _fetched(self, connection: Watched, wanted: Lookup, given: dict[str, Any]) -> Rows:
        if not self.pooled:
            return list(await connection.fetch(wanted.sql, *wanted.arguments(given)))
        async with connection.transaction(readonly=True):  # which sets what a pooler's session does not keep
            return list(await connection.fetch(wanted.sql, *wanted.arguments(given)))

    def _forget(self) -> None:
        free, self._free = self._free, []
        for one in free:
            one.connection.terminate()


async def _lives(connection: Watched) -> bool:
    connection.expect_answer(connections.PING_S)
    try:
        await connection.execute("SELECT")
    except LOST:
        connection.terminate()
        return False
    connection.answered()
    return True
