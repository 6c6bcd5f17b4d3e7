"""A repair's chunk as one statement: the fence, what is changed behind it, and where that leaves each tenant."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlalchemy import (
    CTE,
    Boolean,
    FromClause,
    Select,
    bindparam,
    case,
    func,
    or_,
    select,
    true,
    update,
)

from opsplane.lookups import Lookup
from opsplane.runbooks.statements import LIMIT, WINDOW, Statements
from opsplane.runs.lease_statements import HELD, PROGRESS, does_not_wait, ended_well, fence, from_now
from opsplane.runs.models import OperationRun, OperationRunItem
from opsplane.runs.states import Status

item = OperationRunItem
WAS_UNSURE = bindparam("unsure", type_=Boolean())


@dataclass(frozen=True, eq=False)
class ChunkStatements:
    """Of one repair; besides `limit`, `window` and `after` they take leases, and whether the only one is `unsure`.

    They answer, in a row for each tenant that is still its holder's: its number; whether the run `goes_on`, without
    which nothing is done; how many rows were found and looked at by the whole statement; and, if it has got to this
    tenant, whether that is done, how many of its rows it has `updated`, its cursor, passes and `progress_at`.
    """

    repair: Statements

    @cached_property
    def first(self) -> Lookup:
        """From the first row of each tenant."""
        return Lookup.of(self._chunk(self.repair.first_of))

    @cached_property
    def following(self) -> Lookup:
        """From the cursor of the only tenant."""
        return Lookup.of(self._chunk(self.repair.following_of))

    def _chunk(self, repaired: Callable[[FromClause], Select[Any]]) -> Select[Any]:
        fenced = _fenced()
        given = select(fenced.c.tenant, fenced.c.nr).where(fenced.c.goes_on).subquery()
        answer = repaired(given).cte("answer")
        all_of = select(answer.c.found, answer.c.looked_at, answer.c.nr, answer.c.key).limit(1).subquery("all_of")
        now = _settled(self._reached(fenced, answer, all_of))
        return (
            select(fenced.c.nr, fenced.c.goes_on, all_of.c.found, all_of.c.looked_at)
            .add_columns(now.c.done, now.c.updated, now.c.cursor, now.c.passes, now.c.progress_at)
            .select_from(fenced.join(all_of, true()).outerjoin(now, now.c.nr == fenced.c.nr))
            .order_by(fenced.c.nr)
        )

    def _reached(self, fenced: CTE, answer: CTE, all_of: FromClause) -> CTE:
        """Each tenant that rows were looked at of, or that has none: all but the last one are gone through."""
        is_through = or_((all_of.c.found < LIMIT) & (all_of.c.looked_at < WINDOW), fenced.c.nr < all_of.c.nr)
        found, updated, still = (func.coalesce(answer.c[name], 0) for name in ("tenant_found", "updated", "still"))
        return (
            select(
                fenced.c.run_id,
                fenced.c.item_key,
                fenced.c.nr,
                is_through.label("is_through"),
                or_(WAS_UNSURE, updated < found, still > 0).label("unsure"),
                updated.label("updated"),
                self.repair.encoded(all_of.c.key).label("key"),
            )
            .select_from(fenced.join(all_of, true()).outerjoin(answer, answer.c.tenant_nr == fenced.c.nr))
            .where(fenced.c.goes_on, or_(is_through, fenced.c.nr == all_of.c.nr))
            .cte("reached")
        )


def _fenced() -> CTE:
    told = (
        item.run_id, item.item_key, item.tenant_id.label("tenant"), HELD.c.nr,
        (OperationRun.status == Status.RUNNING).label("goes_on"),
    )  # fmt: skip
    return fence(*told).where(does_not_wait).cte("opsplane_fenced").prefix_with("MATERIALIZED")


def _settled(reached: CTE) -> CTE:
    """Whoever is unsure is gone over again."""
    is_through, done = reached.c.is_through, reached.c.is_through & ~reached.c.unsure
    behind = func.jsonb_build_object("after", reached.c.key, "unsure", case((reached.c.unsure, True)))
    return (
        update(item)
        .where(item.run_id == reached.c.run_id, item.item_key == reached.c.item_key)
        .values(
            state=case((done, ended_well(item.updated_count + reached.c.updated)), else_=item.state),
            cursor=case((~is_through, func.jsonb_strip_nulls(behind))),
            updated_count=item.updated_count + reached.c.updated,
            passes=item.passes + case((is_through, 1), else_=0),
            lease_until=case((~done, from_now("lease"))),
            leased_by=case((~done, item.leased_by)),
            finished_at=case((done, PROGRESS["progress_at"])),
            **PROGRESS,
        )
        .returning(reached.c.nr, done.label("done"), reached.c.updated, item.cursor, item.passes, item.progress_at)
        .cte("settled")
    )
