"""Runs as they are shown, one or a page of them: what is in the database, counted."""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Double,
    Integer,
    Interval,
    ScalarSelect,
    Select,
    Uuid,
    cast,
    false,
    func,
    literal,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.db import Database, first_id_at
from opsplane.errors import NotFound
from opsplane.lookups import Lookup, parameter
from opsplane.runs import documents, processes, summary
from opsplane.runs.documents import Document, Pulse, RunRow, view_url
from opsplane.runs.models import OperationRun, OperationRunFailure, OperationRunItem, is_now
from opsplane.runs.schemas import RunOut
from opsplane.runs.states import ItemState, Outcome, Status
from opsplane.tenants.models import Tenant

__all__ = ["RunNotFound", "Wanted", "page", "show", "view_url"]

MAX_FAILURES = 100
CLOCKS_APART = timedelta(days=1)  # at most, between who made an id and the database

run = OperationRun
SHOWN = (
    run.id, run.type, run.status, run.outcome, run.scope_kind, run.tenant_id, run.initiator_kind,
    run.initiator_display, run.break_glass_id, run.source, run.reason_code, run.reason_text, run.release,
    run.retry_of_run_id, run.preflight_affected_count, run.summary_counts, run.failure_code,
    run.failure_message, run.created_at, run.started_at, run.paused_at, run.stalled_at, run.completed_at,
    run.throttled_reason, run.throttled_at,
)  # fmt: skip


class RunNotFound(NotFound):
    """No run has this id."""

    def __init__(self, run_id: uuid.UUID) -> None:
        super().__init__(f"There is no run {run_id}; see `opsplane runs list`.", run_id=str(run_id))


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which runs a list shows; what is not given does not narrow."""

    runbook: str | None = None
    status: Status | None = None
    outcome: Outcome | None = None
    tenant_id: uuid.UUID | None = None
    source: str | None = None
    within: timedelta | None = None

    def given(self) -> dict[str, Any]:
        """What narrows, by its parameter."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        if self.within is not None:
            given["not_before"] = first_id_at(datetime.now(UTC) - self.within - CLOCKS_APART)
        if self.outcome is Outcome.PENDING or (self.status or Status.COMPLETED) is not Status.COMPLETED:
            given["open"] = True
        return given


async def show(session: AsyncSession, run_id: uuid.UUID, *, base_url: str) -> RunOut:
    """One run with its counts of this moment and its failures.

    Raises:
        NotFound: 404.
    """
    row = (await session.execute(_runs().where(run.id == run_id))).mappings().one_or_none()
    if row is None:
        raise RunNotFound(run_id)
    found: Any = row
    counts, pulse = found["summary_counts"], Pulse()
    if found["completed_at"] is None:
        counts, pulse = await summary.count(session, run_id), await _pulse(session, run_id)
    retries = await session.execute(_newest_retries(literal([run_id], ARRAY(Uuid()))))
    failures, retry = await _failures(session, found), _by_run(retries.mappings(), base_url).get(run_id)
    return RunOut.model_validate(documents.of(found, counts, failures, base_url=base_url, pulse=pulse, retry=retry))


async def page(
    db: Database, wanted: Wanted, *, before: uuid.UUID | None = None, limit: int, base_url: str
) -> list[Document]:
    """Runs, newest first, each as `RunOut` but without failures; ids sort by time, so a page ends with an id.

    Only those that go on are counted anew, and those are few.
    """
    given = wanted.given() | ({} if before is None else {"before": before})
    rows = await db.look(_newest_first(frozenset(given)), **given, limit=limit)
    live = [row["id"] for row in rows if row["completed_at"] is None]
    counts = await summary.look(db, live) if live else {}
    failed = [row["id"] for row in rows if row["summary_counts"].get("failed")]
    retries = _by_run(await db.look(RETRIES, run_ids=failed), base_url) if failed else {}
    return [
        documents.of(row, counts.get(row["id"], row["summary_counts"]), base_url=base_url, retry=retries.get(row["id"]))
        for row in rows
    ]


def _newest_retries(run_ids: Any) -> Select[*tuple[Any, ...]]:
    """The newest run over what failed in each of them."""
    return (
        select(run.retry_of_run_id, run.id, run.status, run.outcome)
        .ext(distinct_on(run.retry_of_run_id))
        .where(run.retry_of_run_id == func.any(run_ids))
        .order_by(run.retry_of_run_id, run.id.desc())
    )


def _by_run(retries: Iterable[Any], base_url: str) -> dict[uuid.UUID, Document]:
    return {
        row["retry_of_run_id"]: {
            "run_id": row["id"],
            "status": documents.STATUSES[row["status"]],
            "outcome": documents.OUTCOMES[row["outcome"]],
            "view_url": view_url(base_url, row["id"]),
        }
        for row in retries
    }


def _runs() -> Select[*tuple[Any, ...]]:
    """Each with its tenant and the seconds it has gone on, pauses left out."""
    until = func.coalesce(run.completed_at, run.paused_at, func.clock_timestamp())
    since = func.coalesce(run.started_at, run.created_at)
    elapsed_s = cast(func.extract("epoch", until - since), Double) - run.paused_ms / 1000.0
    return (
        select(
            *SHOWN,
            func.nullif(run.asks, literal_column("'[]'::jsonb")).label("asks"),  # few have any to be decoded
            cast(run.context["duration_ms"].astext, BigInteger).label("duration_ms"),
            func.coalesce(run.context["preflight"]["estimated"].as_boolean(), false()).label("estimated"),
            Tenant.external_id.label("tenant_external_id"),
            cast(elapsed_s, Double).label("elapsed_s"),
        )
        .select_from(run)
        .outerjoin(Tenant, Tenant.id == run.tenant_id)
    )


@cache
def _newest_first(given: frozenset[str]) -> Lookup:
    """The statement of a list that is narrowed by these parameters; every set of them has its own plan."""
    conditions: dict[str, ColumnElement[bool]] = {
        "runbook": run.type == parameter("runbook"),
        "status": run.status == parameter("status"),
        "outcome": run.outcome == parameter("outcome"),
        "tenant_id": run.tenant_id == parameter("tenant_id"),
        "source": run.source == parameter("source"),
        "within": run.created_at > func.clock_timestamp() - parameter("within", Interval()),
        "not_before": run.id >= parameter("not_before"),
        "before": run.id < parameter("before"),
        # The index of these few is used only where the statement itself says that it is about them.
        "open": run.status != literal(str(Status.COMPLETED), literal_execute=True),
    }
    limit: Any = parameter("limit", Integer())
    return Lookup.of(_runs().where(*(conditions[name] for name in sorted(given))).order_by(run.id.desc()).limit(limit))


async def _pulse(session: AsyncSession, run_id: uuid.UUID) -> Pulse:
    """When anything moved last, found by the indexes of what is at work, what was given back, and what has ended."""
    item = OperationRunItem

    def latest(moment: Any, *which: ColumnElement[bool]) -> ScalarSelect[Any]:
        return select(func.max(moment)).where(item.run_id == run_id, *which).scalar_subquery()

    lately = func.greatest(item.started_at, item.progress_at)
    moved_at = func.greatest(
        latest(lately, is_now(ItemState.RUNNING)),
        latest(lately, is_now(ItemState.PENDING), item.started_at.is_not(None)),
        latest(item.finished_at),
    )
    quiet_s = func.extract("epoch", func.clock_timestamp() - moved_at)
    quiet, workers = (await session.execute(select(quiet_s, processes.alive_workers().exists()))).one()
    return Pulse(workers, None if quiet is None else float(quiet))


async def _failures(session: AsyncSession, found: RunRow) -> list[Document]:
    failure = OperationRunFailure
    rows = await session.execute(
        select(
            failure.tenant_id,
            Tenant.external_id.label("tenant_external_id"),
            failure.code,
            failure.message,
            failure.created_at.label("at"),
        )
        .outerjoin(Tenant, Tenant.id == failure.tenant_id)
        .where(failure.run_id == found["id"])
        .order_by(failure.id)
        .limit(MAX_FAILURES)
    )
    failures = [dict(row) for row in rows.mappings()]
    if found["failure_code"] and not failures:
        whole = {"code": found["failure_code"], "message": found["failure_message"] or "", "at": found["completed_at"]}
        failures.append({"tenant_id": None, "tenant_external_id": None, **whole})
    return failures


RETRIES = Lookup.of(_newest_retries(parameter("run_ids", ARRAY(Uuid()))))
