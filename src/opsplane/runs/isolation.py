"""A tenant whose worker died may have killed it: it is tried again alone, so that it takes no other along."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Isolation:
    """Chunks of one process: as many at once as come, but a suspect's only when no other is under way."""

    def __init__(self) -> None:
        self._door = asyncio.Lock()
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @asynccontextmanager
    async def chunk(self, *, alone: bool) -> AsyncIterator[None]:
        """Hold a chunk back until it may begin."""
        if alone:
            async with self._door:
                await self._empty.wait()
                yield
            return
        async with self._door:
            self._inside += 1
            self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()
