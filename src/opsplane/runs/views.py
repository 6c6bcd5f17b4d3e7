"""Runs as they are shown, one or a page of them: what is in the database, counted and put into words."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, Select, func, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.errors import NotFound
from opsplane.runbooks import registry
from opsplane.runbooks.scopes import ScopeKind
from opsplane.runs import processes, summary, words
from opsplane.runs.models import OperationRun, OperationRunFailure, OperationRunItem
from opsplane.runs.schemas import (
    ActorOut,
    AskedOut,
    CanOut,
    ContextOut,
    FailureOut,
    PreflightContext,
    ProgressOut,
    ReasonOut,
    RetryOut,
    RunOut,
    ScopeOut,
)
from opsplane.runs.states import Outcome, Status, sources
from opsplane.tenants.models import Tenant

MAX_FAILURES = 100
MAX_ASKS = 50


class RunNotFound(NotFound):
    """No run has this id."""

    def __init__(self, run_id: uuid.UUID) -> None:
        super().__init__(f"There is no run {run_id}; see `opsplane runs list`.", run_id=str(run_id))


def view_url(base_url: str, run_id: uuid.UUID) -> str:
    """Where an operator sees the run."""
    return f"{base_url}/system/ops/runs/{run_id}"


async def show(session: AsyncSession, run_id: uuid.UUID, *, base_url: str) -> RunOut:
    """One run with its counts of this moment and its failures.

    Raises:
        NotFound: 404.
    """
    row = (await session.execute(_runs().where(OperationRun.id == run_id))).one_or_none()
    if row is None:
        raise RunNotFound(run_id)
    run: OperationRun = row[0]
    counts = run.summary_counts if run.completed_at else await summary.count(session, run_id)
    pulse = Pulse() if run.completed_at else await _pulse(session, run_id)
    retry = (await _retries(session, [run_id], base_url)).get(run_id)
    return _present(row, counts, await _failures(session, run), base_url=base_url, pulse=pulse, retry=retry)


@dataclass(frozen=True)
class Pulse:
    """Whether anybody could work on a run, and for how long nobody got anywhere."""

    workers: bool = True
    quiet_s: float | None = None


async def _pulse(session: AsyncSession, run_id: uuid.UUID) -> Pulse:
    item = OperationRunItem
    moved_at = func.max(func.greatest(item.started_at, item.progress_at, item.finished_at))
    quiet_s = func.extract("epoch", func.clock_timestamp() - moved_at)
    row = await session.execute(select(quiet_s, processes.alive_workers().exists()).where(item.run_id == run_id))
    quiet, workers = row.one()
    return Pulse(workers, None if quiet is None else float(quiet))


async def page(session: AsyncSession, runs: Select[*tuple[Any, ...]], *, base_url: str) -> list[RunOut]:
    """Runs as a list shows them, without failures; only those that go on are counted anew, and those are few."""
    rows = (await session.execute(runs)).all()
    live = {row[0].id: await summary.count(session, row[0].id) for row in rows if row[0].completed_at is None}
    retries = await _retries(session, [row[0].id for row in rows], base_url)
    return [
        _present(
            row, live.get(row[0].id, row[0].summary_counts), [], base_url=base_url, retry=retries.get(row[0].id)
        )
        for row in rows
    ]  # fmt: skip


async def _retries(session: AsyncSession, run_ids: Sequence[uuid.UUID], base_url: str) -> dict[uuid.UUID, RetryOut]:
    run = OperationRun
    newest = (
        select(run.retry_of_run_id, run.id, run.status, run.outcome)
        .ext(distinct_on(run.retry_of_run_id))
        .where(run.retry_of_run_id.in_(run_ids))
        .order_by(run.retry_of_run_id, run.id.desc())
    )
    return {
        of: RetryOut(run_id=id_, status=Status(status), outcome=Outcome(outcome), view_url=view_url(base_url, id_))
        for of, id_, status, outcome in await session.execute(newest)
        if of is not None
    }


def newest_first(
    *,
    runbook: str | None = None,
    status: Status | None = None,
    outcome: Outcome | None = None,
    tenant_id: uuid.UUID | None = None,
    source: str | None = None,
    within: timedelta | None = None,
    before: uuid.UUID | None = None,
    limit: int,
) -> Select[*tuple[Any, ...]]:
    """The runs of a list; ids sort by time, so a page goes on before the last id of the one before."""
    runs = _runs().order_by(OperationRun.id.desc()).limit(limit)
    filters = {
        OperationRun.type: runbook,
        OperationRun.status: status,
        OperationRun.outcome: outcome,
        OperationRun.tenant_id: tenant_id,
        OperationRun.source: source,
    }
    for column, wanted in filters.items():
        if wanted is not None:
            runs = runs.where(column == wanted)
    if within is not None:
        runs = runs.where(OperationRun.created_at > func.clock_timestamp() - within)
    return runs if before is None else runs.where(OperationRun.id < before)


def _runs() -> Select[*tuple[Any, ...]]:
    """Each with its tenant and the seconds it has gone on, pauses left out."""
    until = func.coalesce(OperationRun.completed_at, OperationRun.paused_at, func.clock_timestamp())
    since = func.coalesce(OperationRun.started_at, OperationRun.created_at)
    elapsed_s = func.extract("epoch", until - since) - OperationRun.paused_ms / 1000.0
    return select(OperationRun, Tenant.external_id, elapsed_s.label("elapsed_s")).outerjoin(
        Tenant, Tenant.id == OperationRun.tenant_id
    )


def _present(
    row: Row[*tuple[Any, ...]],
    counts: dict[str, int],
    failures: list[FailureOut],
    *,
    base_url: str,
    pulse: Pulse = Pulse(),
    retry: RetryOut | None = None,
) -> RunOut:
    run, external_id, elapsed_s = row
    asks = [AskedOut.model_validate(asked) for asked in run.asks[-MAX_ASKS:]]
    stalled = run.stalled_at is not None and run.completed_at is None
    return RunOut(
        id=run.id,
        type=run.type,
        type_label=registry.find(run.type).title if registry.known(run.type) else run.type,
        status=Status(run.status),
        outcome=Outcome(run.outcome),
        scope=ScopeOut(kind=ScopeKind(run.scope_kind), tenant_id=run.tenant_id, tenant_external_id=external_id),
        actor=ActorOut(
            kind=run.initiator_kind, display=run.initiator_display, break_glass=run.break_glass_id is not None
        ),
        source=run.source,
        reason=ReasonOut(code=run.reason_code, text=run.reason_text) if run.reason_code else None,
        release=run.release,
        retry_of_run_id=run.retry_of_run_id,
        retried_in=retry,
        summary_counts=summary.checked(counts),
        context=ContextOut(
            preflight=PreflightContext(affected_count=run.preflight_affected_count, estimated=_estimated(run)),
            updated_count=counts.get("updated", 0),
            skipped_count=counts.get("skipped", 0),
            error_count=counts.get("errors", 0),
            duration_ms=run.context.get("duration_ms"),
        ),
        failures=failures,
        progress=_progress(run, counts, float(elapsed_s), pulse),
        stalled=stalled,
        next_step=words.next_step(
            Status(run.status),
            Outcome(run.outcome),
            stalled=stalled,
            workers=pulse.workers,
            retried=None if retry is None else retry.outcome,
        ),
        can=_can(Status(run.status), counts, retry),
        asked=asks[-1] if asks else None,
        asks=asks,
        created_at=run.created_at,
        started_at=run.started_at,
        paused_at=run.paused_at,
        completed_at=run.completed_at,
        view_url=view_url(base_url, run.id),
    )


def _can(status: Status, counts: dict[str, int], retry: RetryOut | None) -> CanOut:
    retried = retry is not None and retry.outcome in {Outcome.PENDING, Outcome.SUCCEEDED}
    return CanOut(
        pause=status in sources(Status.PAUSING),
        resume=status in {Status.PAUSING, Status.PAUSED},
        cancel=status in sources(Status.CANCELLING),
        retry_failed=status is Status.COMPLETED and counts.get("failed", 0) > 0 and not retried,
    )


def _progress(run: OperationRun, counts: dict[str, int], elapsed_s: float, pulse: Pulse) -> ProgressOut:
    status, updated, affected = Status(run.status), counts.get("updated", 0), run.preflight_affected_count
    rate = _rate(updated, elapsed_s) if run.started_at else None
    fraction, eta_s = 1.0, None
    if status is not Status.COMPLETED or run.outcome == Outcome.CANCELLED:
        fraction = updated / affected if affected else counts.get("processed", 0) / max(1, counts.get("total", 0))
        fraction = min(round(fraction, 4), 1)
    if status is not Status.COMPLETED:
        fraction = min(fraction, 0.999)  # it is over when its last tenant is, and not before
        eta_s = round(max(0, affected - updated) / rate, 1) if affected and rate else None
    return ProgressOut(
        fraction=fraction,
        rows_per_s=rate,
        eta_s=eta_s,
        said=words.said(status, counts, affected, fraction, estimated=_estimated(run)),
        pace=words.pace(status, rate, eta_s, fraction, quiet_s=pulse.quiet_s),
    )


def _estimated(run: OperationRun) -> bool:
    return bool(run.context.get("preflight", {}).get("estimated"))


def _rate(rows: int, elapsed_s: float) -> float | None:
    return round(rows / elapsed_s, 1) if elapsed_s > 0 else None


async def _failures(session: AsyncSession, run: OperationRun) -> list[FailureOut]:
    rows = await session.execute(
        select(OperationRunFailure, Tenant.external_id)
        .outerjoin(Tenant, Tenant.id == OperationRunFailure.tenant_id)
        .where(OperationRunFailure.run_id == run.id)
        .order_by(OperationRunFailure.id)
        .limit(MAX_FAILURES)
    )
    failures = [
        FailureOut(
            tenant_id=failure.tenant_id,
            tenant_external_id=external_id,
            code=failure.code,
            message=failure.message,
            at=failure.created_at,
        )
        for failure, external_id in rows
    ]
    if run.failure_code and not failures:
        message = run.failure_message or ""
        failures.append(
            FailureOut(
                tenant_id=None, tenant_external_id=None, code=run.failure_code, message=message, at=run.completed_at
            )
        )
    return failures
