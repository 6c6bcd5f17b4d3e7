"""Statements over leased items, as the driver takes them: SQLAlchemy takes longer over each than PostgreSQL."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Integer,
    Interval,
    Select,
    Text,
    Uuid,
    bindparam,
    case,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from opsplane.lookups import Lookup
from opsplane.runs.models import OperationRun, OperationRunItem, is_now
from opsplane.runs.states import ItemState, Status

GIVEN_BACK = {"state": ItemState.PENDING, "lease_until": None, "leased_by": None}

item = OperationRunItem
now = func.clock_timestamp()
# Whatever commits later and waits for the disk, as the end of a run does, makes this last as well.
does_not_wait = select(func.set_config("synchronous_commit", "off", True)).scalar_subquery() == "off"
PROGRESS = {  # forgives what went wrong before
    "attempts": func.greatest(item.attempts - 1, 0),
    "lost_count": 0,
    "not_before": None,
    "trouble_code": None,
    "trouble_message": None,
    "progress_at": now,
}


def _table(**columns: Any) -> Any:
    """Arrays as a table, its rows numbered from 1: one statement, prepared once, for any number of rows."""
    arrays = [bindparam(f"held_{name}", type_=ARRAY(type_)) for name, type_ in columns.items()]
    return func.unnest(*arrays).table_valued(*columns, with_ordinality="nr", name="held").render_derived()


def _fenced(mine: Any) -> Any:
    """The fence: items of a run that nobody else has claimed, that have not ended, and are as their holder left them.

    They are not if a crash of the server has forgotten the holder's last commit. Which run it is comes with each key:
    of a run by itself PostgreSQL believes that it has a few items, and would rather read all of them.
    """
    return (
        (item.run_id == mine.c.run_id)
        & (item.item_key == mine.c.item_key)
        & (item.lease_token == mine.c.token)
        & item.progress_at.is_not_distinct_from(mine.c.progress_at)
        & (item.state == ItemState.RUNNING)
    )


def _of_held(told: Any = item.item_key, **values: Any) -> Lookup:
    return Lookup.of(update(item).where(_fenced(HELD)).values(**values).returning(told))


def fence(*told: Any) -> Select[Any]:
    """Lock those of the items `HELD` that are still their holder's for the rest of the transaction."""
    return (
        select(*told)
        .join(OperationRun, OperationRun.id == item.run_id)
        .where(_fenced(HELD))
        .order_by(HELD.c.nr)
        .with_for_update(of=item)
    )


def ended_well(updated: Any) -> ColumnElement[str]:
    """The state of a tenant that is done, of which so many rows were repaired."""
    return case((updated > 0, ItemState.SUCCEEDED), else_=ItemState.SKIPPED)


def from_now(name: str) -> Any:
    """So long from now."""
    return now + bindparam(name, type_=Interval())


def _claiming(*conditions: Any) -> Lookup:
    of_run, due = bindparam("run", type_=Uuid()), or_(item.not_before.is_(None), item.not_before <= now)
    running = select(OperationRun.id).where(OperationRun.id == of_run, OperationRun.status == Status.RUNNING)
    picked = (
        select(item.run_id, item.item_key)
        .where(item.run_id == of_run, is_now(ItemState.PENDING), due, running.exists(), does_not_wait, *conditions)
        .order_by(item.ordinal)
        .limit(bindparam("most", type_=BigInteger()))
        .with_for_update(skip_locked=True)
        .cte("picked")
        .prefix_with("MATERIALIZED")  # picked once
    )
    return Lookup.of(
        update(item)
        .where(item.run_id == picked.c.run_id, item.item_key == picked.c.item_key)
        .values(
            state=ItemState.RUNNING,
            lease_token=item.lease_token + 1,
            # the same for all, so that a claim is known as one
            lease_until=select(from_now("lease")).scalar_subquery(),
            leased_by=bindparam("worker", type_=Uuid()),
            started_at=func.coalesce(item.started_at, now),
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
            item.progress_at,
        )
    )


CLAIM = _claiming()
CLAIM_SMOOTH = _claiming(item.attempts == 0, item.lost_count == 0)

HELD = _table(run_id=Uuid(), item_key=Text(), token=BigInteger(), progress_at=DateTime(timezone=True))
DONE = _table(
    run_id=Uuid(), item_key=Text(), token=BigInteger(), progress_at=DateTime(timezone=True), updated=BigInteger(),
    errors=BigInteger(),
)  # fmt: skip
FENCE = Lookup.of(fence(item.item_key, OperationRun.status))
FINISH = Lookup.of(
    update(item)
    .where(_fenced(DONE))
    .values(
        state=ended_well(item.updated_count + DONE.c.updated),
        cursor=None,
        updated_count=item.updated_count + DONE.c.updated,
        error_count=item.error_count + DONE.c.errors,
        passes=item.passes + 1,
        lease_until=None,
        leased_by=None,
        finished_at=now,
        **PROGRESS,
    )
    .returning(item.item_key)
)
STORE = _of_held(
    item.progress_at,
    cursor=bindparam("new_cursor", type_=item.cursor.type),
    updated_count=item.updated_count + bindparam("more_updated", type_=BigInteger()),
    error_count=item.error_count + bindparam("more_errors", type_=BigInteger()),
    passes=bindparam("new_passes", type_=Integer()),
    lease_until=from_now("lease"),
    **PROGRESS,
)
END_FAILED = _of_held(state=ItemState.FAILED, lease_until=None, leased_by=None, finished_at=now)
COUNT_ATTEMPT = _of_held(item.attempts, attempts=item.attempts + 1)
RETRY_LATER = _of_held(
    **GIVEN_BACK,
    not_before=from_now("wait"),
    trouble_code=bindparam("code", type_=Text()),
    trouble_message=bindparam("message", type_=Text()),
)
RELEASE = _of_held(**GIVEN_BACK)
RELEASE_FOR_LATER = _of_held(**GIVEN_BACK, not_before=from_now("wait"))
