"""The nemesis's own way to the database: past the proxies, and back again after every crash."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg

NAME = "nemesis"
GONE = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.CannotConnectNowError,
        asyncpg.AdminShutdownError, asyncpg.CrashShutdownError)  # fmt: skip
PATIENCE_S = 60.0


class Control:
    """One connection at a time; a question is asked again until the database answers it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None
        self._turn = asyncio.Lock()

    async def rows(self, sql: str, *given: object) -> list[Any]:
        """All rows of a statement that may be repeated."""
        async with self._turn, asyncio.timeout(PATIENCE_S):
            while True:
                if self._connection is None:
                    self._connection = await self.connect()
                try:
                    return list(await self._connection.fetch(sql, *given))
                except GONE:
                    await self.close()

    async def value(self, sql: str, *given: object) -> Any:
        """The first value of the first row."""
        rows = await self.rows(sql, *given)
        return rows[0][0] if rows else None

    async def script(self, sql: str) -> None:
        """Several statements at once."""
        connection = await self.connect()
        await connection.execute(sql)
        await connection.close()

    async def connect(self) -> Any:
        """A new connection, as soon as there can be one."""
        while True:
            try:
                return await asyncpg.connect(self._url, server_settings={"application_name": NAME}, timeout=10)
            except GONE:
                await asyncio.sleep(0.05)

    async def listen(self, channel: str, hear: Callable[[str], None]) -> Any:
        """A connection that hears what is committed; the caller closes it."""
        while True:
            connection = await self.connect()
            try:
                await connection.add_listener(channel, lambda *heard: hear(heard[-1]))
            except GONE:
                connection.terminate()
            else:
                return connection

    async def close(self) -> None:
        """Close what is open."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
