"""What workers and sweepers do, each act in a transaction of its own, and a chunk whose transaction stays open."""

import uuid
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from opsplane.db import Transaction
from opsplane.runbooks.service import Plane
from opsplane.runs import leases, lifecycle, sweeper
from opsplane.runs.leases import Lease
from tests import support
from tests.faults.run_model import Item, Run


class Death(Exception):
    """A worker dies in the middle of its chunk."""


@dataclass
class Chunk:
    """A chunk on its way: behind the fence, with nothing committed yet."""

    stack: AsyncExitStack
    tx: Transaction

    async def commit(self, lease: Lease, *, updated: int, lease_s: float, last: bool) -> Lease:
        """Store what it did, as the drain does."""
        session = self.tx.session
        async with self.stack:
            if last:
                await leases.finish(session, [leases.Whole(lease, updated, 0)])
                return lease
            return await leases.store(
                session, lease, cursor=None, updated=updated, errors=0, passes=0, lease_s=lease_s
            )  # fmt: skip

    async def die(self, lease: Lease) -> None:
        """Store, and be gone before the commit."""
        with suppress(Death):
            async with self.stack:
                await leases.store(self.tx.session, lease, cursor=None, updated=1, errors=0, passes=0, lease_s=0)
                raise Death


@dataclass(eq=False)
class Hand:
    """A lease in a worker's hand; the worker may be the only one who still believes in it."""

    lease: Lease
    run: Run
    item: Item
    lease_s: float
    chunk: Chunk | None = None

    @property
    def is_good(self) -> bool:
        """Whether the fence must know it."""
        return self.item.state == "running" and self.item.token == self.lease.token


async def begin(plane: Plane, run_id: uuid.UUID) -> bool:
    """Expand a run."""
    async with plane.db.transaction() as tx:
        return await lifecycle.begin(tx.session, run_id)


async def settle(plane: Plane, run_id: uuid.UUID) -> bool:
    """Complete or pause it."""
    async with plane.db.transaction() as tx:
        return await lifecycle.settle(tx.session, run_id)


async def claim(plane: Plane, run_id: uuid.UUID, worker: uuid.UUID, lease_s: float) -> Lease | None:
    """Lease an item."""
    async with plane.db.transaction() as tx:
        return await leases.claim(tx.session, run_id, worker, lease_s=lease_s)


async def open_chunk(plane: Plane, lease: Lease) -> Chunk:
    """Pass the fence, and stay there for as long as the machine takes to do other things."""
    async with AsyncExitStack() as stack:
        tx = await stack.enter_async_context(plane.db.transaction())
        connection = await tx.session.connection()
        await connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        await leases.fence(tx.session, lease)
        return Chunk(stack.pop_all(), tx)


async def finish(plane: Plane, lease: Lease) -> None:
    """End an item well."""
    async with plane.db.transaction() as tx:
        await support.finish(tx.session, lease)


async def fail(plane: Plane, lease: Lease) -> None:
    """End an item with a failure."""
    async with plane.db.transaction() as tx:
        await leases.fail(tx.session, lease, code="broken", message="It is broken.")


async def retry_later(plane: Plane, lease: Lease) -> bool:
    """Give an item back for another try."""
    async with plane.db.transaction() as tx:
        return await leases.retry_later(tx.session, lease, "later", "Not yet.")


async def give_back(plane: Plane, lease: Lease) -> None:
    """Give an item back at once."""
    async with plane.db.transaction() as tx:
        await leases.release(tx.session, [lease])


async def sweep_one(plane: Plane, step: sweeper.Step) -> None:
    """One step of a sweep."""
    async with plane.db.transaction() as tx:
        await step(tx, plane.settings, plane.queue)
