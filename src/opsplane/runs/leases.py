"""Leases on run items: claim, change under the fence, end or give back. Every time is the database's."""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

from sqlalchemy import tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane import direct
from opsplane.direct import Begun, directly
from opsplane.lookups import Lookup
from opsplane.runs import items, metrics
from opsplane.runs.lease_statements import (
    CLAIM,
    CLAIM_SMOOTH,
    COUNT_ATTEMPT,
    END_FAILED,
    FENCE,
    FINISH,
    GIVEN_BACK,
    RELEASE,
    RELEASE_FOR_LATER,
    RETRY_LATER,
    STORE,
)
from opsplane.runs.models import OperationRunItem
from opsplane.runs.states import ItemState, Status

MAX_ATTEMPTS = 4
BACKOFF_S = (5, 30, 120)

item = OperationRunItem
Key = tuple[uuid.UUID, str]


class LeaseLost(Exception):
    """The fence does not know this lease: nothing of the transaction may be kept."""


class RunNotRunning(Exception):
    """The run is pausing, cancelling or over: give the item back."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One tenant's item, held by one worker until `lease_until` in the database."""

    run_id: uuid.UUID
    item_key: str
    tenant_id: uuid.UUID
    ordinal: int
    token: int
    cursor: dict[str, Any] | None
    updated: int
    passes: int
    attempts: int
    losses: int
    progress_at: datetime | None

    @property
    def key(self) -> Key:
        """Which item it is of."""
        return self.run_id, self.item_key

    @property
    def is_begun(self) -> bool:
        """Whether it has had a chunk, and needs another."""
        return self.cursor is not None or self.passes > 0


async def claim(session: Begun, run_id: uuid.UUID, worker: uuid.UUID, *, lease_s: float) -> Lease | None:
    """Lease the next pending item of a running run; None if there is none for now.

    The commit of a claim does not wait for the disk.
    """
    claimed = await _claim(session, CLAIM, run_id, worker, 1, lease_s)
    return claimed[0] if claimed else None


async def claim_some(
    session: Begun, run_id: uuid.UUID, worker: uuid.UUID, count: int, *, lease_s: float
) -> list[Lease]:
    """Lease up to `count` pending items that never gave trouble, in order; without such, the next one that did.

    Whatever failed before, or may have killed its worker, is claimed alone, so that it takes no other along.
    """
    if count > 1:
        claimed = await _claim(session, CLAIM_SMOOTH, run_id, worker, count, lease_s)
        if claimed:
            return claimed
    return await _claim(session, CLAIM, run_id, worker, 1, lease_s)


async def do_not_wait_for_the_disk(session: Begun) -> None:
    """Let the commit be forgotten if the server crashes within a second: rows and counts together, as the fence sees.

    So do claims. Whatever commits later and waits, as the end of a run does, makes everything before it last.
    """
    await direct.set_local(session, "synchronous_commit = off")


async def _claim(
    session: Begun, statement: Lookup, run_id: uuid.UUID, worker: uuid.UUID, count: int, lease_s: float
) -> list[Lease]:
    given = {"run": run_id, "worker": worker, "most": count, "lease": timedelta(seconds=lease_s)}
    claimed = [Lease(run_id=run_id, **row) for row in await directly(session, statement, **given)]
    return sorted(claimed, key=attrgetter("ordinal"))


async def fence(session: Begun, lease: Lease) -> None:
    """Lock the item for the rest of the transaction, if it is still ours and the run goes on.

    Raises:
        LeaseLost: another worker has it, or it has ended.
        RunNotRunning: the run is asked to pause or cancel.
    """
    if not await fence_all(session, [lease]):
        raise LeaseLost


async def fence_all(session: Begun, held: Sequence[Lease]) -> list[Lease]:
    """Lock items of one run for the rest of the transaction; returns those that are still ours.

    Raises:
        RunNotRunning: the run is asked to pause or cancel.
    """
    rows = await directly(session, FENCE, **parameters(held))
    ours = {row["item_key"]: row["status"] for row in rows}
    if any(status != Status.RUNNING for status in ours.values()):
        raise RunNotRunning
    return [lease for lease in held if lease.item_key in ours]


async def store(
    session: Begun,
    lease: Lease,
    *,
    cursor: dict[str, Any] | None,
    updated: int,
    errors: int,
    passes: int,
    lease_s: float,
) -> Lease:
    """Store a chunk's cursor and counts and renew the lease, in the chunk's own transaction; progress forgives."""
    given = {"new_cursor": cursor, "more_updated": updated, "more_errors": errors, "new_passes": passes}
    stored = await directly(session, STORE, **parameters([lease]), **given, lease=timedelta(seconds=lease_s))
    if not stored:
        raise LeaseLost
    return replace(
        lease, cursor=cursor, updated=lease.updated + updated, passes=passes, attempts=max(lease.attempts - 1, 0),
        losses=0, progress_at=stored[0]["progress_at"],
    )  # fmt: skip


@dataclass(frozen=True)
class Whole:
    """A tenant that is done, and what its last chunk did."""

    lease: Lease
    updated: int
    errors: int


async def finish(session: Begun, done: Sequence[Whole]) -> None:
    """Store what their last chunk did for tenants of a run, and end them well: `skipped` if nothing was wrong there.

    Raises:
        LeaseLost: not all of them are ours; nothing may be kept.
    """
    if not done:
        return
    given = parameters([one.lease for one in done])
    given |= {"held_updated": [one.updated for one in done], "held_errors": [one.errors for one in done]}
    if len(await directly(session, FINISH, **given)) != len(done):
        raise LeaseLost
    repaired = sum(one.lease.updated + one.updated > 0 for one in done)
    metrics.ended(session, ItemState.SUCCEEDED, repaired)
    metrics.ended(session, ItemState.SKIPPED, len(done) - repaired)


async def fail(session: AsyncSession, lease: Lease, *, code: str, message: str) -> None:
    """End an item with a failure that operators see."""
    if not await directly(session, END_FAILED, **parameters([lease])):
        raise LeaseLost
    metrics.ended(session, ItemState.FAILED)
    await items.add_failure(session, lease.run_id, lease.item_key, lease.tenant_id, code=code, message=message)


async def retry_later(session: AsyncSession, lease: Lease, code: str, message: str) -> bool:
    """Give the item back to be tried after a while, with why; False when it has been tried often enough."""
    counted = await directly(session, COUNT_ATTEMPT, **parameters([lease]))
    if not counted:
        raise LeaseLost
    attempts = counted[0]["attempts"]
    if attempts >= MAX_ATTEMPTS:
        return False
    wait = timedelta(seconds=BACKOFF_S[min(attempts, len(BACKOFF_S)) - 1])
    await directly(session, RETRY_LATER, **parameters([lease]), wait=wait, code=code, message=message)
    metrics.given_back(session, metrics.RETRY)
    return True


async def release(session: Begun, held: Sequence[Lease], *, after_s: float = 0) -> None:
    """Give items of a run back, as on shutdown: no attempt is counted."""
    given = parameters(held)
    if after_s:
        back = await directly(session, RELEASE_FOR_LATER, **given, wait=timedelta(seconds=after_s))
    else:
        back = await directly(session, RELEASE, **given)
    metrics.given_back(session, metrics.RELEASED, len(back))


async def release_others(session: AsyncSession, worker: uuid.UUID, at_work: Collection[Key]) -> list[uuid.UUID]:
    """Give back every item the worker has leased but those; a claim it is just hearing of is lost. Returns the runs."""
    given = await session.scalars(
        update(item)
        .where(item.leased_by == worker, item.state == ItemState.RUNNING)
        .where(tuple_(item.run_id, item.item_key).not_in(list(at_work)))
        .values(**GIVEN_BACK)
        .returning(item.run_id)
    )
    runs = given.all()
    metrics.given_back(session, metrics.LEFT_BEHIND, len(runs))
    return sorted(set(runs))


def parameters(held: Sequence[Lease]) -> dict[str, Any]:
    """Leases as statements take them."""
    return {
        "held_run_id": [lease.run_id for lease in held],
        "held_item_key": [lease.item_key for lease in held],
        "held_token": [lease.token for lease in held],
        "held_progress_at": [lease.progress_at for lease in held],
    }
