"""A bundle: chunks of several tenants in one transaction, as many as fit into the time of one."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile

from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.errors import ServiceUnavailable
from opsplane.runbooks.chunk import Chunk
from opsplane.runs import leases
from opsplane.runs.chunks import Pace
from opsplane.runs.leases import Lease, RunNotRunning, Whole
from opsplane.runs.repairing import Repairer


class Culprit(Exception):
    """One tenant of several broke their common chunk; its cause says how."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(lease.item_key)
        self.lease = lease


class Unclear(Exception):
    """Somebody of several broke their common statement; its cause says how, but nothing says who."""


@dataclass
class Bundle:
    """What one transaction does for several tenants, in order: some are whole, one is begun, and some wait.

    `unfinished` are those that it leaves with something to do, as it has stored them.
    """

    repairer: Repairer
    pace: Pace
    stop: asyncio.Event
    waiting: list[Lease]
    whole: list[Whole] = field(default_factory=list)
    begun: tuple[Lease, Chunk] | None = None
    unfinished: list[Lease] = field(default_factory=list)
    updated: int = 0
    took: int = 0
    started: float = field(default_factory=time.monotonic)

    async def fill(self, session: AsyncSession) -> None:
        """Repair the first one, and whoever else fits; end those that are done, and store how far another one is.

        Raises:
            Culprit: a tenant failed.
            Unclear: some tenant failed.
            LeaseLost: one of them is no longer ours.
        """
        await self._go_on(session)
        while self._has_room():
            await self._go_on(session)
        if self.begun is not None:
            self.unfinished.append(await self.repairer.store(session, *self.begun))
        await leases.finish(session, self.whole)

    def _has_room(self) -> bool:
        anybody = self.begun is not None or bool(self.waiting)
        in_time = time.monotonic() - self.started < self.pace.target_s
        return anybody and in_time and self.took < self.pace.rows and not self.stop.is_set()

    async def _go_on(self, session: AsyncSession) -> None:
        if self.begun is None:
            await self._begin_next(session)
        else:
            await self._continue(session, *self.begun)

    async def _continue(self, session: AsyncSession, lease: Lease, before: Chunk) -> None:
        with blaming([lease]):
            chunk = await self.repairer.apply(session, lease, before.cursor, self.pace.rows - self.took)
        await self._add(session, lease, chunk, before.then(chunk))

    async def _begin_next(self, session: AsyncSession) -> None:
        held = self._next()
        with blaming(held):
            chunks = await self._first_chunks(session, held)
        for lease, chunk in zip(held, chunks, strict=False):
            self.waiting.remove(lease)
            await self._add(session, lease, chunk, chunk)

    def _next(self) -> Sequence[Lease]:
        """Those whose first rows may be repaired in one statement, or the one whose turn it is."""
        if not (self.pace.together and self.repairer.shares_statements):
            return self.waiting[:1]
        return list(takewhile(lambda lease: lease.cursor is None, self.waiting)) or self.waiting[:1]

    async def _first_chunks(self, session: AsyncSession, held: Sequence[Lease]) -> Sequence[Chunk]:
        rows = self.pace.rows  # though less is left: who nearly fits need not be carried twice
        if len(held) > 1:
            return await self.repairer.apply_together(session, held, rows)
        return [await self.repairer.apply(session, held[0], held[0].cursor, rows)]

    async def _add(self, session: AsyncSession, lease: Lease, chunk: Chunk, so_far: Chunk) -> None:
        self.updated += chunk.updated
        self.took += chunk.took
        self.begun = None
        with blaming([lease]):
            done = await self.repairer.is_done(session, lease, so_far)
        if done:
            self.whole.append(Whole(lease, so_far.updated, so_far.errors))
        elif so_far.cursor is not None:
            self.begun = lease, so_far
        else:
            self.unfinished.append(await self.repairer.store(session, lease, so_far))


@contextmanager
def blaming(held: Sequence[Lease]) -> Iterator[None]:
    """Around what is done for these; what ends is the chunk, if nobody can be blamed."""
    try:
        yield
    except (ServiceUnavailable, RunNotRunning):
        raise
    except Exception as error:
        raise (Culprit(held[0]) if len(held) == 1 else Unclear) from error
