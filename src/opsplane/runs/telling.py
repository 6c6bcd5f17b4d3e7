"""Who must hear of a run: the alerts, and in the app the operator who started it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane import outbox
from opsplane.alerts import notifications
from opsplane.db import TRANSIENT, is_unreachable, sqlstate
from opsplane.outbox import Kind, Severity
from opsplane.runbooks import registry
from opsplane.runs import metrics
from opsplane.runs.models import OperationRun
from opsplane.runs.states import Outcome
from opsplane.tenants.models import Tenant

log = structlog.get_logger()

ENDS = {
    Outcome.FAILED: (Kind.RUN_FAILED, Severity.CRITICAL),
    Outcome.PARTIALLY_SUCCEEDED: (Kind.RUN_FAILED, Severity.WARNING),
    Outcome.SUCCEEDED: (Kind.RUN_SUCCEEDED, Severity.INFO),
}


async def ended(session: AsyncSession, run: OperationRun) -> None:
    """Tell how a run ended; the operator who started it hears of failures alone, and nobody of a cancelled run."""
    kind, severity = ENDS.get(Outcome(run.outcome), (None, None))
    if kind is not None and severity is not None:
        await _tell(session, run, kind, severity, to_initiator=kind is Kind.RUN_FAILED)


async def stalled(session: AsyncSession, run: OperationRun) -> None:
    """Tell that nothing moves in a run; the first time only."""
    await _tell(session, run, Kind.RUN_STALLED, Severity.WARNING, to_initiator=False)


async def _tell(
    session: AsyncSession, run: OperationRun, kind: Kind, severity: Severity, *, to_initiator: bool
) -> None:
    payload = await _payload(session, run)
    async with _or_go_on(session, run, kind):
        await outbox.emit(session, kind, run.id, severity, payload)
    if to_initiator and run.initiator_id is not None:
        async with _or_go_on(session, run, kind):
            await notifications.notify(session, run.initiator_id, run.id, kind, severity, payload)


@asynccontextmanager
async def _or_go_on(session: AsyncSession, run: OperationRun, kind: Kind) -> AsyncIterator[None]:
    """A run never fails because nobody could be told of it; what may pass is tried again with the run's end."""
    try:
        async with session.begin_nested():
            yield
    except DBAPIError as error:
        if is_unreachable(error) or sqlstate(error) in TRANSIENT:
            raise
        metrics.alerts_not_written.inc()
        log.exception("alert_not_written", run_id=str(run.id), kind=kind)


async def _payload(session: AsyncSession, run: OperationRun) -> dict[str, Any]:
    tenant = select(Tenant.external_id).where(Tenant.id == run.tenant_id)
    return {
        "run_id": str(run.id),
        "type": run.type,
        "type_label": registry.find(run.type).title if registry.known(run.type) else run.type,
        "outcome": run.outcome,
        "scope_kind": run.scope_kind,
        "tenant": None if run.tenant_id is None else await session.scalar(tenant),
        "counts": run.summary_counts,
    }
