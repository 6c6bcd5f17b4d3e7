"""Leases on run items: claim, change under the fence, end or give back. Every time is the database's."""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    BigInteger,
    CursorResult,
    Interval,
    Text,
    Uuid,
    any_,
    bindparam,
    case,
    func,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.runs import items, metrics
from opsplane.runs.models import OperationRun, OperationRunItem
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

    @property
    def key(self) -> Key:
        """Which item it is of."""
        return self.run_id, self.item_key

    @property
    def mine(self) -> Any:
        """The fence: the item, as long as nobody else has claimed it."""
        return (
            (item.run_id == self.run_id)
            & (item.item_key == self.item_key)
            & (item.lease_token == self.token)
            & (item.state == ItemState.RUNNING)
        )


async def claim(session: AsyncSession, run_id: uuid.UUID, worker: uuid.UUID, *, lease_s: float) -> Lease | None:
    """Lease the next pending item of a running run; None if there is none for now."""
    claimed = await _claim(session, CLAIM, run_id, worker, 1, lease_s)
    return claimed[0] if claimed else None


async def claim_some(
    session: AsyncSession, run_id: uuid.UUID, worker: uuid.UUID, count: int, *, lease_s: float
) -> list[Lease]:
    """Lease up to `count` pending items that never gave trouble, in order; without such, the next one that did.

    Whatever failed before, or may have killed its worker, is claimed alone, so that it takes no other along.
    """
    # A crash of the server may forget a claim; a chunk's commit makes it last with everything before it.
    await session.execute(text("SET LOCAL synchronous_commit = off"))
    if count > 1:
        claimed = await _claim(session, CLAIM_SMOOTH, run_id, worker, count, lease_s)
        if claimed:
            return claimed
    return await _claim(session, CLAIM, run_id, worker, 1, lease_s)


async def _claim(
    session: AsyncSession, statement: Any, run_id: uuid.UUID, worker: uuid.UUID, count: int, lease_s: float
) -> list[Lease]:
    given = {"run": run_id, "worker": worker, "most": count, "lease": timedelta(seconds=lease_s)}
    rows = await session.execute(statement, given)
    claimed = [Lease(run_id=run_id, **row._mapping) for row in rows]  # noqa: SLF001 - SQLAlchemy's public API
    return sorted(claimed, key=attrgetter("ordinal"))


async def fence(session: AsyncSession, lease: Lease) -> None:
    """Lock the item for the rest of the transaction, if it is still ours and the run goes on.

    Raises:
        LeaseLost: another worker has it, or it has ended.
        RunNotRunning: the run is asked to pause or cancel.
    """
    if not await fence_all(session, [lease]):
        raise LeaseLost


async def fence_all(session: AsyncSession, held: Sequence[Lease]) -> list[Lease]:
    """Lock items of one run for the rest of the transaction; returns those that are still ours.

    Raises:
        RunNotRunning: the run is asked to pause or cancel.
    """
    rows = await session.execute(FENCE, _given(held))
    ours: dict[str, str] = dict(rows.all())
    if any(status != Status.RUNNING for status in ours.values()):
        raise RunNotRunning
    return [lease for lease in held if lease.item_key in ours]


async def store(
    session: AsyncSession,
    lease: Lease,
    *,
    cursor: dict[str, Any] | None,
    updated: int,
    errors: int,
    passes: int,
    lease_s: float,
) -> Lease:
    """Store a chunk's cursor and counts and renew the lease, in the chunk's own transaction; progress forgives."""
    await session.execute(
        update(item)
        .where(lease.mine)
        .values(
            cursor=cursor,
            updated_count=item.updated_count + updated,
            error_count=item.error_count + errors,
            passes=passes,
            attempts=func.greatest(item.attempts - 1, 0),
            lost_count=0,
            not_before=None,
            trouble_code=None,
            trouble_message=None,
            lease_until=_after(lease_s),
            progress_at=func.clock_timestamp(),
        )
    )
    attempts = max(lease.attempts - 1, 0)
    return replace(
        lease, cursor=cursor, updated=lease.updated + updated, passes=passes, attempts=attempts, losses=0
    )  # fmt: skip


async def finish(session: AsyncSession, lease: Lease) -> None:
    """End an item well, in its last chunk's transaction: `skipped` if nothing was wrong there."""
    await _end(session, lease, _ended_well(item.updated_count))
    metrics.ended(session, ItemState.SUCCEEDED if lease.updated > 0 else ItemState.SKIPPED)


@dataclass(frozen=True)
class Whole:
    """A tenant that one chunk was enough for."""

    lease: Lease
    updated: int
    errors: int


async def finish_all(session: AsyncSession, done: Sequence[Whole]) -> None:
    """Store what one chunk did for several whole tenants of a run, and end them well, in one statement.

    Raises:
        LeaseLost: not all of them are ours; nothing may be kept.
    """
    if not done:
        return
    given = _given([one.lease for one in done])
    given |= {"held_updated": [one.updated for one in done], "held_errors": [one.errors for one in done]}
    ended = await session.execute(FINISH, given)
    assert isinstance(ended, CursorResult)
    if ended.rowcount != len(done):
        raise LeaseLost
    repaired = sum(one.lease.updated + one.updated > 0 for one in done)
    metrics.ended(session, ItemState.SUCCEEDED, repaired)
    metrics.ended(session, ItemState.SKIPPED, len(done) - repaired)


async def fail(session: AsyncSession, lease: Lease, *, code: str, message: str) -> None:
    """End an item with a failure that operators see."""
    await _end(session, lease, ItemState.FAILED)
    metrics.ended(session, ItemState.FAILED)
    await items.add_failure(session, lease.run_id, lease.item_key, lease.tenant_id, code=code, message=message)


async def retry_later(session: AsyncSession, lease: Lease, code: str, message: str) -> bool:
    """Give the item back to be tried after a while, with why; False when it has been tried often enough."""
    attempts = await session.scalar(
        update(item).where(lease.mine).values(attempts=item.attempts + 1).returning(item.attempts)
    )
    if attempts is None:
        raise LeaseLost
    if attempts >= MAX_ATTEMPTS:
        return False
    wait_s = BACKOFF_S[min(attempts, len(BACKOFF_S)) - 1]
    await session.execute(
        update(item)
        .where(lease.mine)
        .values(**_given_back(), not_before=_after(wait_s), trouble_code=code, trouble_message=message)
    )
    metrics.given_back(session, metrics.RETRY)
    return True


async def release(session: AsyncSession, held: Sequence[Lease], *, after_s: float = 0) -> None:
    """Give items of a run back, as on shutdown: no attempt is counted."""
    later = {"not_before": _after(after_s)} if after_s else {}
    given = await session.execute(
        update(item).where(_fenced(HELD)).values(**_given_back(), **later).execution_options(synchronize_session=False),
        _given(held),
    )
    assert isinstance(given, CursorResult)
    metrics.given_back(session, metrics.RELEASED, given.rowcount)


async def release_others(session: AsyncSession, worker: uuid.UUID, at_work: Collection[Key]) -> list[uuid.UUID]:
    """Give back every item the worker has leased but those; a claim it is just hearing of is lost. Returns the runs."""
    given = await session.scalars(
        update(item)
        .where(item.leased_by == worker, item.state == ItemState.RUNNING)
        .where(tuple_(item.run_id, item.item_key).not_in(list(at_work)))
        .values(**_given_back())
        .returning(item.run_id)
    )
    runs = given.all()
    metrics.given_back(session, metrics.LEFT_BEHIND, len(runs))
    return sorted(set(runs))


async def _end(session: AsyncSession, lease: Lease, state: Any) -> None:
    ended = await session.scalar(
        update(item)
        .where(lease.mine)
        .values(state=state, lease_until=None, leased_by=None, finished_at=func.clock_timestamp())
        .returning(item.item_key)
    )
    if ended is None:
        raise LeaseLost


def _ended_well(updated: Any) -> Any:
    return case((updated > 0, ItemState.SUCCEEDED), else_=ItemState.SKIPPED)


def _given(held: Sequence[Lease]) -> dict[str, Any]:
    return {
        "run": held[0].run_id,
        "held_item_key": [lease.item_key for lease in held],
        "held_token": [lease.token for lease in held],
    }


def _table(**columns: Any) -> Any:
    """Arrays as a table: one statement, prepared once, for any number of rows."""
    arrays = [bindparam(f"held_{name}", type_=ARRAY(type_)) for name, type_ in columns.items()]
    return func.unnest(*arrays).table_valued(*columns, name="held").render_derived()


def _fenced(mine: Any) -> Any:
    """The fence, for several items: `Lease.mine` of each."""
    return (
        (item.run_id == bindparam("run", type_=Uuid()))
        & (item.item_key == mine.c.item_key)
        & (item.lease_token == mine.c.token)
        & (item.state == ItemState.RUNNING)
    )


def _given_back() -> dict[str, Any]:
    return {"state": ItemState.PENDING, "lease_until": None, "leased_by": None}


def _after(seconds: float) -> Any:
    return func.clock_timestamp() + timedelta(seconds=seconds)


def _claiming(*conditions: Any) -> Any:
    """Built once: SQLAlchemy takes longer to put a statement together than PostgreSQL to run it."""
    of_run, due = bindparam("run", type_=Uuid()), or_(item.not_before.is_(None), item.not_before <= _now)
    running = select(OperationRun.id).where(OperationRun.id == of_run, OperationRun.status == Status.RUNNING)
    picked = (
        select(item.item_key)
        .where(item.run_id == of_run, item.state == ItemState.PENDING, due, running.exists(), *conditions)
        .order_by(item.ordinal)
        .limit(bindparam("most", type_=BigInteger()))
        .with_for_update(skip_locked=True)
    )
    return (
        update(item)
        .where(item.run_id == of_run, item.item_key == any_(func.array(picked.scalar_subquery())))
        .values(
            state=ItemState.RUNNING,
            lease_token=item.lease_token + 1,
            # the same for all, so that a claim is known as one
            lease_until=select(_now + bindparam("lease", type_=Interval())).scalar_subquery(),
            leased_by=bindparam("worker", type_=Uuid()),
            started_at=func.coalesce(item.started_at, _now),
        )
        .returning(
            item.item_key,
            item.tenant_id,
            item.ordinal,
            item.lease_token.label("token"),
            item.cursor,
            item.updated_count.label("updated"),
            item.passes,
            item.attempts,
            item.lost_count.label("losses"),
        )
        .execution_options(synchronize_session=False)
    )


_now = func.clock_timestamp()
CLAIM = _claiming()
CLAIM_SMOOTH = _claiming(item.attempts == 0, item.lost_count == 0)

HELD = _table(item_key=Text(), token=BigInteger())
DONE = _table(item_key=Text(), token=BigInteger(), updated=BigInteger(), errors=BigInteger())
FENCE = (
    select(item.item_key, OperationRun.status)
    .join(OperationRun, OperationRun.id == item.run_id)
    .where(_fenced(HELD))
    .order_by(item.item_key)
    .with_for_update(of=item)
)
FINISH = (
    update(item)
    .where(_fenced(DONE))
    .values(
        state=_ended_well(item.updated_count + DONE.c.updated),
        cursor=None,
        updated_count=item.updated_count + DONE.c.updated,
        error_count=item.error_count + DONE.c.errors,
        passes=item.passes + 1,
        lease_until=None,
        leased_by=None,
        not_before=None,
        trouble_code=None,
        trouble_message=None,
        progress_at=_now,
        finished_at=_now,
    )
    .execution_options(synchronize_session=False)
)
