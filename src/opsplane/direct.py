"""Statements straight to the driver: in a session's transaction, or in a bare one, of which SQLAlchemy knows nothing.

For what is hot: SQLAlchemy spends more on a transaction of a few `Lookup`s than PostgreSQL does.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.pool import PoolProxiedConnection

from opsplane import connections
from opsplane.connections import Watched
from opsplane.lookups import Lookup, Rows

DRIVER = "driver"


class Bare:
    """A transaction for `Lookup`s and commands; it begins with the first of them. `info` is as a session's.

    With `each_alone`, each of its statements is a transaction by itself, which nobody begins or commits; not so
    behind a pooler, where what a session should have set is set as a transaction begins.
    """

    def __init__(self, driver: Watched, info: dict[str, Any], *, each_alone: bool = False) -> None:
        self.info = info
        self._driver = driver
        self._each_alone = each_alone and not driver.pooled
        self._begun = False

    async def fetch(self, wanted: Lookup, given: dict[str, Any]) -> Rows:
        """The rows of one statement.

        Raises:
            DBAPIError: as SQLAlchemy would.
        """
        arguments = wanted.arguments(given)
        with _asking(self._driver):
            await self._begin()
            return list(await self._driver.fetch(wanted.sql, *arguments))

    async def run(self, sql: str) -> None:
        """A command."""
        with _asking(self._driver):
            await self._begin()
            await self._driver.execute(sql)

    async def set_local(self, setting: str) -> None:
        """Set something for the rest of it."""
        assert not self._each_alone, "there is no rest of a transaction that is one statement"
        if self._begun:
            await self.run(f"SET LOCAL {setting}")
        else:
            self._driver.opening += f"SET LOCAL {setting};"

    async def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            if not self._each_alone:
                await self._driver.execute("BEGIN ISOLATION LEVEL READ COMMITTED;")

    async def commit(self) -> None:
        """Make it last.

        Raises:
            RuntimeError: a statement has failed, and somebody went on as if it had not; nothing was kept.
        """
        if not self._begun or self._each_alone:
            return
        with _asking(self._driver):
            said = await self._driver.execute("COMMIT")
        if said != "COMMIT":
            raise RuntimeError("A statement of the transaction had failed; PostgreSQL has rolled it back.")

    async def roll_back(self) -> None:
        """Leave nothing of it."""
        if self._begun and not self._driver.is_closed():  # in a transaction or not: something may be under way
            with _asking(self._driver):
                await self._driver.execute("SELECT" if self._each_alone else "ROLLBACK")


Begun = AsyncSession | Bare


@asynccontextmanager
async def bare(engine: AsyncEngine, info: dict[str, Any], *, each_alone: bool) -> AsyncIterator[Bare]:
    """Commit on success, roll back on any exception.

    Raises:
        DBAPIError: the server let nobody in, or as SQLAlchemy would.
    """
    try:
        pooled = await engine.raw_connection()
    except engine.dialect.loaded_dbapi.Error as error:  # this way to connect alone SQLAlchemy does not wrap
        raise InterfaceError(None, None, error) from error
    driver = pooled.driver_connection
    assert isinstance(driver, Watched)
    opened = Bare(driver, info, each_alone=each_alone)
    try:
        yield opened
        await opened.commit()
    except BaseException:
        await asyncio.shield(_undo(opened, pooled, driver))
        raise
    pooled.close()


async def _undo(opened: Bare, pooled: PoolProxiedConnection, driver: Watched) -> None:
    """Whoever was cancelled in a statement has asked the server to cancel it, and this waits until it did."""
    try:
        await opened.roll_back()
    except DBAPIError:
        driver.terminate()
    except BaseException:
        driver.terminate()
        raise
    finally:
        if driver.is_closed():
            pooled.invalidate()
        else:
            pooled.close()


async def directly(session: Begun, wanted: Lookup, **given: Any) -> Rows:
    """The rows of a statement in the transaction, by name: past SQLAlchemy, for what is hot.

    Raises:
        DBAPIError: as SQLAlchemy would.
    """
    if isinstance(session, Bare):
        return await session.fetch(wanted, given)
    arguments = wanted.arguments(given)
    driver = await _driver_of(session)
    if not driver.is_in_transaction():  # SQLAlchemy begins it, with the first statement that it sees
        ran = await (await session.connection()).exec_driver_sql(wanted.sql, tuple(arguments))
        return list(ran.mappings()) if ran.returns_rows else []
    with _asking(driver):
        return list(await driver.fetch(wanted.sql, *arguments))


async def run(session: Begun, sql: str) -> None:
    """A command in the transaction."""
    if isinstance(session, Bare):
        await session.run(sql)
        return
    driver = await _driver_of(session)
    if not driver.is_in_transaction():
        await (await session.connection()).exec_driver_sql(sql)
        return
    with _asking(driver):
        await driver.execute(sql)


async def set_local(session: Begun, setting: str) -> None:
    """Set something for the rest of the transaction; in the round trip of its BEGIN, if it is yet to come."""
    if isinstance(session, Bare):
        await session.set_local(setting)
    else:
        await _set_local(await session.connection(), setting)


async def _set_local(connection: AsyncConnection, setting: str) -> None:
    driver = connections.driver_of(connection.sync_connection)
    if driver is None or driver.is_in_transaction():
        await connection.exec_driver_sql(f"SET LOCAL {setting}")
    else:
        driver.opening += f"SET LOCAL {setting};"


@contextmanager
def _asking(driver: Watched) -> Iterator[None]:
    """The driver is asked something, and has its time to answer; its errors become SQLAlchemy's.

    A lost connection must not look like an `OSError`: an author's code may raise those as well.
    """
    driver.expect_answer(driver.patience_s)
    try:
        yield
        driver.answered()
    except asyncpg.PostgresError as error:
        raise DBAPIError(None, None, error) from error
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        raise InterfaceError(None, None, error) from error
    finally:
        driver.expect_answer(None)


async def _driver_of(session: AsyncSession) -> Watched:
    driver = session.info.get(DRIVER)
    if driver is None or not session.in_transaction():  # somebody has committed: the connection is another's
        driver = connections.driver_of((await session.connection()).sync_connection)
        assert driver is not None, "the connection is lost"
        session.info[DRIVER] = driver
    return driver
