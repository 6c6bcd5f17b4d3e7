"""The one path: pages, REST, CLI and deploy hook all look and start here."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError

from opsplane.audit import log as audit
from opsplane.auth.actors import Actor
from opsplane.auth.capabilities import Capability
from opsplane.config import Settings
from opsplane.db import Database, Transaction, sqlstate
from opsplane.errors import Conflict, OpsplaneError
from opsplane.queue import Queue
from opsplane.runbooks import idempotency, locks, preflights, registry
from opsplane.runbooks.base import Runbook
from opsplane.runbooks.locks import ScopeLocked
from opsplane.runbooks.models import Preflight
from opsplane.runbooks.reasons import Reason, ReasonRequired
from opsplane.runbooks.scopes import Scope
from opsplane.runs import views
from opsplane.runs.models import OperationRun
from opsplane.runs.views import RunOut

log = structlog.get_logger()

PREFLIGHT, STARTED, REFUSED = (f"platform.ops.runbooks.{act}" for act in ("preflight", "started", "refused"))
RACES = frozenset({"23P01", "40P01", "55P03"})  # exclusion constraint, deadlock, lock timeout


class Source(StrEnum):
    """The door a run came through."""

    SYSTEM_UI = "system_ui"
    API = "api"
    CLI = "cli"
    DEPLOY_HOOK = "deploy_hook"


class NothingToDo(Conflict):
    """The preflight found no row to change, and nobody forced the run."""

    code = "nothing_to_do"

    def __init__(self) -> None:
        super().__init__("The preflight found nothing to do; start with force to run all the same.")


class ConfirmationMismatch(OpsplaneError):
    """The typed phrase is missing or not the runbook's."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "confirmation_mismatch"

    def __init__(self, phrase: str) -> None:
        super().__init__(f"Type {phrase} to confirm.", confirmation_phrase=phrase)


@dataclass(frozen=True)
class Plane:
    """What every door brings along: database, doorbell and settings."""

    db: Database
    queue: Queue
    settings: Settings


@dataclass(frozen=True, kw_only=True)
class StartOrder:
    """What somebody asks to start; `tenant` is an id or external id, None for all tenants."""

    runbook: str
    tenant: str | None
    source: Source
    reason: tuple[str, str] | None = None
    confirmation: str | None = None
    preflight_id: uuid.UUID | None = None
    force: bool = False
    release: str | None = None
    identity_key: str | None = None  # at most one run ever has it


@dataclass(frozen=True)
class Started:
    """A run and whether it was there already, because the request was a repeat."""

    run: RunOut
    replayed: bool


async def preflight(plane: Plane, key: str, tenant: str | None, *, by: Actor, source: Source) -> Preflight:
    """Look at a scope and keep what was seen.

    Raises:
        RunbookNotFound: 404.
        MissingCapability: 403.
        TenantNotAllowed: 422.
        PreflightTooSlow: 503.
    """
    by.require(Capability.RUNBOOKS_VIEW)
    runbook = registry.find(key)
    async with plane.db.reading() as session:
        scope = await Scope.resolve(session, tenant)
    impact = await preflights.look(plane.db, plane.settings, runbook, scope)
    async with plane.db.transaction() as tx:
        kept = await preflights.keep(tx.session, plane.settings, runbook, scope, impact, by=by)
        await audit.record(
            tx.session,
            PREFLIGHT,
            by=by,
            subject_type="runbook",
            subject_id=key,
            workspace_id=scope.workspace_id,
            tenant_id=scope.tenant_id,
            source=source,
            details={"preflight_id": str(kept.id), **asdict(impact)},
        )
    return kept


async def start(plane: Plane, order: StartOrder, *, by: Actor, idempotency_key: str | None = None) -> Started:
    """Queue one run, wake the workers after the commit; without a preflight, one is made first.

    Raises:
        RunbookNotFound: 404.
        MissingCapability: 403.
        TenantNotAllowed, ConfirmationMismatch, ReasonRequired, IdempotencyKeyReused: 422.
        ScopeLocked, NothingToDo, PreflightStale: 409.
    """
    async with _audited_refusals(plane, order, by=by):
        by.require(Capability.RUNBOOKS_RUN)
        runbook = registry.find(order.runbook)
        by.require(runbook.capability)
        reason = _checked(order, runbook, by=by)
        if replay := await _replay(plane, order, idempotency_key, by=by):
            return replay
        preflight_id = order.preflight_id
        if preflight_id is None:
            await _refuse_if_held(plane, runbook, order.tenant)
            preflight_id = (await preflight(plane, order.runbook, order.tenant, by=by, source=order.source)).id
        return await _retried(plane, order, runbook, reason, preflight_id, idempotency_key, by=by)


def _checked(order: StartOrder, runbook: Runbook, *, by: Actor) -> Reason | None:
    all_tenants = order.tenant is None
    if (all_tenants or order.confirmation is not None) and order.confirmation != runbook.confirmation_phrase:
        raise ConfirmationMismatch(runbook.confirmation_phrase)
    if order.reason is not None:
        return Reason.parse(*order.reason)
    if all_tenants or by.break_glass:
        raise ReasonRequired("A run over all tenants needs a reason: a code and a sentence.")
    return None


async def _retried(
    plane: Plane,
    order: StartOrder,
    runbook: Runbook,
    reason: Reason | None,
    preflight_id: uuid.UUID,
    idempotency_key: str | None,
    *,
    by: Actor,
) -> Started:
    """The start transaction, once more if it lost a race that its locks should have ordered."""
    for attempt in (1, 2):
        try:
            async with plane.db.transaction() as tx:
                return await _start(plane, tx, order, runbook, reason, preflight_id, idempotency_key, by=by)
        except DBAPIError as error:
            if attempt == 2 or sqlstate(error) not in RACES:
                raise
            await _refuse_if_held(plane, runbook, order.tenant)
    raise AssertionError


async def _start(
    plane: Plane,
    tx: Transaction,
    order: StartOrder,
    runbook: Runbook,
    reason: Reason | None,
    preflight_id: uuid.UUID,
    idempotency_key: str | None,
    *,
    by: Actor,
) -> Started:
    """The one transaction: idempotency key, scope lock, preflight used up, run and audit rows."""
    session = tx.session
    if idempotency_key is not None:
        stored = await idempotency.reserve(session, idempotency_key, _fingerprint(order), by=by)
        if stored is not None:
            return Started(RunOut.model_validate(stored), replayed=True)
    scope = await Scope.resolve(session, order.tenant)
    group = runbook.lock_group or runbook.key
    await locks.take(session, scope, group)
    if (active := await locks.holder(session, scope, group)) is not None:
        raise ScopeLocked(active, views.view_url(plane.settings.base_url, active.id))
    seen = await preflights.consume(session, preflight_id, runbook, scope, by=by)
    if seen.affected_count == 0 and not order.force:
        raise NothingToDo
    run = _new_run(order, runbook, scope, reason, seen, by=by)
    session.add(run)
    await session.flush()
    await _audit_start(tx, run, by=by)
    out = await views.show(session, run.id, base_url=plane.settings.base_url)
    if idempotency_key is not None:
        await idempotency.answered(session, idempotency_key, run.id, out.model_dump(mode="json"), by=by)
    tx.after_commit.append(lambda: _wake(plane, run.id))
    return Started(out, replayed=False)


def _new_run(
    order: StartOrder, runbook: Runbook, scope: Scope, reason: Reason | None, seen: Preflight, *, by: Actor
) -> OperationRun:
    return OperationRun(
        workspace_id=scope.workspace_id,
        type=runbook.key,
        runbook_version=runbook.version,
        scope_kind=scope.kind,
        tenant_id=scope.tenant_id,
        lock_group=runbook.lock_group or runbook.key,
        tenant_span=scope.span,
        identity_mode="once" if order.identity_key else None,
        identity_key=order.identity_key,
        source=order.source,
        initiator_kind=by.kind,
        initiator_id=by.id,
        initiator_display=by.display,
        token_id=by.token_id,
        break_glass=by.break_glass,
        reason_code=reason and reason.code,
        reason_text=reason and reason.text,
        release=order.release,
        preflight_id=seen.id,
        preflight_affected_count=seen.affected_count,
        context={"preflight": {"affected_count": seen.affected_count}},
    )


async def _audit_start(tx: Transaction, run: OperationRun, *, by: Actor) -> None:
    await audit.record(
        tx.session,
        STARTED,
        by=by,
        subject_type="operation_run",
        subject_id=run.id,
        workspace_id=run.workspace_id,
        tenant_id=run.tenant_id,
        source=run.source,
        reason_code=run.reason_code,
        reason_text=run.reason_text,
        details={"type": run.type, "affected_count": run.preflight_affected_count, "release": run.release},
    )


@asynccontextmanager
async def _audited_refusals(plane: Plane, order: StartOrder, *, by: Actor) -> AsyncIterator[None]:
    """Put a refused start on record: its own transaction was rolled back with it."""
    try:
        yield
    except OpsplaneError as refusal:
        if refusal.status is not HTTPStatus.SERVICE_UNAVAILABLE:
            await _audit_refusal(plane, order, refusal, by=by)
        raise


async def _audit_refusal(plane: Plane, order: StartOrder, refusal: OpsplaneError, *, by: Actor) -> None:
    details = {"code": refusal.code, "tenant": order.tenant, "message": refusal.message}
    try:
        async with plane.db.transaction() as tx:
            await audit.record(
                tx.session, REFUSED, by=by, subject_type="runbook", subject_id=order.runbook, source=order.source,
                details=details,
            )  # fmt: skip
    except OpsplaneError:
        log.exception("refusal_not_audited", **details)


async def _replay(plane: Plane, order: StartOrder, key: str | None, *, by: Actor) -> Started | None:
    """The first answer to a repeated request, before anything is counted for it again."""
    if key is None:
        return None
    async with plane.db.reading() as session:
        stored = await idempotency.find(session, key, _fingerprint(order), by=by)
    return Started(RunOut.model_validate(stored), replayed=True) if stored else None


async def _refuse_if_held(plane: Plane, runbook: Runbook, tenant: str | None) -> None:
    """Save the count, and tell who lost a race whom it lost to."""
    async with plane.db.reading() as session:
        scope = await Scope.resolve(session, tenant)
        active = await locks.holder(session, scope, runbook.lock_group or runbook.key)
    if active is not None:
        raise ScopeLocked(active, views.view_url(plane.settings.base_url, active.id))


def _fingerprint(order: StartOrder) -> str:
    asked: dict[str, Any] = asdict(order)
    return idempotency.fingerprint(asked)


async def _wake(plane: Plane, run_id: uuid.UUID) -> None:
    await plane.queue.wake(run_id)
