"""Control of runs that exist: pause, resume, cancel, and a new run over the tenants that failed in an old one."""

import uuid

from sqlalchemy.exc import DBAPIError

from opsplane.auth.actors import Actor
from opsplane.auth.capabilities import Capability
from opsplane.db import RACES, sqlstate
from opsplane.errors import Conflict, ServiceUnavailable
from opsplane.runbooks import registry, service
from opsplane.runbooks.service import Plane, Source, Started, StartOrder
from opsplane.runs import announcing, lifecycle, views
from opsplane.runs import control as runs
from opsplane.runs.control import Ask
from opsplane.runs.schemas import RunOut
from opsplane.runs.states import Status


class NothingFailed(Conflict):
    """The run goes on, or no tenant failed in it."""

    code = "invalid_transition"

    def __init__(self, run: RunOut) -> None:
        super().__init__(
            f"Only the failed tenants of a completed run can be retried, and this one is {run.status} with "
            f"{run.summary_counts.get('failed', 0)} failed.",
            run_status=run.status,
        )


async def ask(plane: Plane, run_id: uuid.UUID, what: Ask, *, by: Actor) -> RunOut:
    """Ask a run to pause, resume or cancel; what is so already stays so.

    A run that nobody works on is paused or cancelled at once. Otherwise each worker sees the
    request at the fence of its next chunk, and a dead one's tenant follows when its lease is over.

    Raises:
        MissingCapability: 403.
        RunNotFound: 404.
        InvalidTransition: 409.
        ServiceUnavailable: a process that stands still holds the run, for fifteen seconds at most.
    """
    by.require(Capability.RUNBOOKS_RUN)
    try:
        return await _ask(plane, run_id, what, by=by)
    except DBAPIError as error:
        if sqlstate(error) not in RACES:
            raise
        raise ServiceUnavailable(
            f"Another process holds this run and does not let go; ask again in a few seconds to {what} it.",
            service="database",
        ) from error


async def _ask(plane: Plane, run_id: uuid.UUID, what: Ask, *, by: Actor) -> RunOut:
    async with plane.db.transaction() as tx:
        moved = await runs.ask(tx.session, run_id, what, by=by)
        if moved:
            announcing.after_commit(tx.session, plane.queue, run_id)
            if what is Ask.RESUME:
                announcing.wake_after_commit(tx.session, plane.queue, run_id)
    async with plane.db.transaction() as tx:
        if moved and await lifecycle.settle(tx.session, run_id):
            announcing.after_commit(tx.session, plane.queue, run_id)
        return await views.show(tx.session, run_id, base_url=plane.settings.base_url)


async def retry_failed(
    plane: Plane,
    run_id: uuid.UUID,
    *,
    by: Actor,
    source: Source,
    reason: tuple[str, str] | None = None,
    force: bool = False,
    idempotency_key: str | None = None,
) -> Started:
    """Start a run over the tenants that failed in a completed one; its reason is the old run's unless one is given.

    In break-glass a reason must be given.

    Raises:
        RunNotFound: 404.
        NothingFailed: 409.
        as `service.start`.
    """
    async with service.audited_refusals(
        plane, by=by, source=source, subject_type="operation_run", subject_id=str(run_id)
    ):
        by.require(Capability.RUNBOOKS_RUN)
        old = await _retriable(plane, run_id)
        phrase = registry.find(old.type).confirmation_phrase  # it was typed for more than this
    if reason is None and old.reason is not None and not by.break_glass:
        reason = (old.reason.code, old.reason.text)
    order = StartOrder(
        runbook=old.type,
        tenant=str(old.scope.tenant_id) if old.scope.tenant_id else None,
        source=source,
        retry_of=run_id,
        reason=reason,
        confirmation=phrase,
        force=force,
    )
    return await service.start(plane, order, by=by, idempotency_key=idempotency_key)


async def _retriable(plane: Plane, run_id: uuid.UUID) -> RunOut:
    async with plane.db.reading() as session:
        old = await views.show(session, run_id, base_url=plane.settings.base_url)
    if old.status is not Status.COMPLETED or not old.summary_counts.get("failed"):
        raise NothingFailed(old)
    return old
