"""The one path: pages, REST, CLI and deploy hook all look and start here."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from http import HTTPStatus
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.audit import log as audit
from opsplane.auth.actors import Actor
from opsplane.auth.capabilities import Capability
from opsplane.config import Settings
from opsplane.db import Database, Transaction, first_line, new_id, sqlstate
from opsplane.errors import Conflict, OpsplaneError, ServiceUnavailable
from opsplane.queue import Queue
from opsplane.runbooks import idempotency, locks, preflights, registry
from opsplane.runbooks.base import Runbook
from opsplane.runbooks.locks import ScopeLocked
from opsplane.runbooks.models import Preflight
from opsplane.runbooks.reasons import Reason, ReasonRequired
from opsplane.runbooks.scopes import Scope
from opsplane.runs import announcing, items, lifecycle, views
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


class PerhapsStarted(ServiceUnavailable):
    """The database went away in the start transaction and did not come back to tell how that ended."""

    def __init__(self) -> None:
        super().__init__(
            "The database went away before it said whether the run was started; look at the runs, or repeat this with "
            "its Idempotency-Key, before you start another.",
            service="database",
        )


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
    retry_of: uuid.UUID | None = None  # only the tenants that failed in this run
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
    return await _look(plane, runbook, scope, by=by, source=source)


async def start(plane: Plane, order: StartOrder, *, by: Actor, idempotency_key: str | None = None) -> Started:
    """Queue one run, wake the workers after the commit; without a preflight, one is made first.

    Raises:
        RunbookNotFound: 404.
        MissingCapability: 403.
        TenantNotAllowed, ConfirmationMismatch, ReasonRequired, IdempotencyKeyReused: 422.
        ScopeLocked, NothingToDo, PreflightStale: 409.
    """
    async with audited_refusals(
        plane, by=by, source=order.source, subject_type="runbook", subject_id=order.runbook, tenant=order.tenant
    ):
        by.require(Capability.RUNBOOKS_RUN)
        runbook = registry.find(order.runbook)
        by.require(runbook.capability)
        starting = _Starting(plane, order, runbook, _checked(order, runbook, by=by), by, idempotency_key)
        try:
            return await starting.replayed() or await starting.queued()
        except ScopeLocked:
            if (ours := await starting.replayed()) is not None:
                return ours  # the run that holds the scope is this very request's, sent twice
            raise


async def _look(plane: Plane, runbook: Runbook, scope: Scope, *, by: Actor, source: Source) -> Preflight:
    impact = await preflights.look(plane.db, plane.settings, runbook, scope)
    async with plane.db.transaction() as tx:
        kept = await preflights.keep(tx.session, plane.settings, runbook, scope, impact, by=by)
        await audit.record(
            tx.session,
            PREFLIGHT,
            by=by,
            subject_type="runbook",
            subject_id=runbook.key,
            workspace_id=scope.workspace_id,
            tenant_id=scope.tenant_id,
            source=source,
            details={"preflight_id": str(kept.id), **asdict(impact)},
        )
    return kept


def _checked(order: StartOrder, runbook: Runbook, *, by: Actor) -> Reason | None:
    all_tenants = order.tenant is None
    if (all_tenants or order.confirmation is not None) and order.confirmation != runbook.confirmation_phrase:
        raise ConfirmationMismatch(runbook.confirmation_phrase)
    if order.reason is not None:
        return Reason.parse(*order.reason)
    if all_tenants or by.break_glass:
        what = "A run over all tenants" if all_tenants else "Every run in break-glass"
        raise ReasonRequired(f"{what} needs a reason: a code and a sentence.")
    return None


@dataclass(frozen=True)
class _Starting:
    """One start on its way: everything that was asked and checked before the database is."""

    plane: Plane
    order: StartOrder
    runbook: Runbook
    reason: Reason | None
    by: Actor
    idempotency_key: str | None
    run_id: uuid.UUID = field(default_factory=new_id)
    written: asyncio.Event = field(default_factory=asyncio.Event)  # from here on a commit could have kept the run

    @property
    def group(self) -> str:
        """The lock group of the runbook."""
        return self.runbook.lock_group or self.runbook.key

    @property
    def fingerprint(self) -> str:
        """Equal for equal orders, also for one that an older release has kept: what it did not know is left out."""
        asked = asdict(self.order)
        if self.order.retry_of is None:
            del asked["retry_of"]
        return idempotency.fingerprint(asked)

    async def replayed(self) -> Started | None:
        """The first answer to a repeated request, before anything is counted for it again."""
        if self.idempotency_key is None:
            return None
        async with self.plane.db.reading() as session:
            stored = await idempotency.find(session, self.idempotency_key, self.fingerprint, by=self.by)
        return Started(RunOut.model_validate(stored), replayed=True) if stored else None

    async def queued(self) -> Started:
        """The start transaction, once more if it lost a race that its locks should have ordered."""
        preflight_id = self.order.preflight_id
        if preflight_id is None:
            scope = await self._refuse_if_held()
            preflight_id = (await _look(self.plane, self.runbook, scope, by=self.by, source=self.order.source)).id
        try:
            return await self._transaction(preflight_id)
        except ServiceUnavailable:
            if not self.written.is_set():
                raise
            return await self._committed_all_the_same()
        except DBAPIError as error:
            if sqlstate(error) not in RACES:
                raise
        await self._refuse_if_held()
        try:
            return await self._transaction(preflight_id)
        except DBAPIError as error:
            if sqlstate(error) not in RACES:
                raise
            raise ServiceUnavailable(
                "Another start on this scope takes long; try again.", service="database"
            ) from error

    async def _transaction(self, preflight_id: uuid.UUID) -> Started:
        """The one transaction: idempotency key, scope lock, preflight used up, run and audit rows."""
        async with self.plane.db.transaction() as tx:
            if (stored := await self._reserve_key(tx.session)) is not None:
                return Started(RunOut.model_validate(stored), replayed=True)
            scope = await self._scope(tx.session)
            await locks.take(tx.session, scope, self.group)
            await self._refuse_overlap(tx.session, scope)
            seen = await preflights.consume(tx.session, preflight_id, self.runbook, scope, by=self.by)
            if seen.affected_count == 0 and not self.order.force:
                raise NothingToDo
            run = self._new_run(scope, seen)
            tx.session.add(run)
            await tx.session.flush()
            self.written.set()
            if scope.retry_of is not None:  # workers of the release before would expand it to every tenant
                await lifecycle.begin(tx.session, run.id)
            details = {"type": run.type, "affected_count": seen.affected_count, "release": run.release}
            if scope.retry_of is not None:
                details["retry_of_run_id"] = str(scope.retry_of)
            await lifecycle.record(tx.session, STARTED, run, by=self.by, details=details)
            out = await views.show(tx.session, run.id, base_url=self.plane.settings.base_url)
            await self._keep_answer(tx.session, out)
            self._tell_after_commit(tx)
        return Started(out, replayed=False)

    async def _committed_all_the_same(self) -> Started:
        """The run, if only the answer to its commit was lost with the connection.

        Raises:
            ServiceUnavailable: nothing was committed.
            PerhapsStarted: the database is still away.
        """
        try:
            out = await self._found()
        except (ServiceUnavailable, DBAPIError) as error:
            log.warning("start_uncertain", run_id=str(self.run_id), error=first_line(error))
            raise PerhapsStarted from error
        if out is None:
            raise ServiceUnavailable(
                "The connection to the database was lost, and nothing was started; try again.", service="database"
            )
        log.warning("start_committed_unheard", run_id=str(self.run_id))
        return Started(out, replayed=False)

    async def _found(self) -> RunOut | None:
        """The run, if it is there; behind the lock this is certain."""
        async with self.plane.db.transaction() as tx:
            await locks.take(tx.session, await self._scope(tx.session), self.group)
            if await tx.session.get(OperationRun, self.run_id) is None:
                return None
            self._tell_after_commit(tx)
            return await views.show(tx.session, self.run_id, base_url=self.plane.settings.base_url)

    def _tell_after_commit(self, tx: Transaction) -> None:
        announcing.wake_after_commit(tx, self.plane.queue, self.run_id)
        announcing.after_commit(tx, self.plane.queue, self.run_id)

    async def _reserve_key(self, session: AsyncSession) -> dict[str, Any] | None:
        if self.idempotency_key is None:
            return None
        return await idempotency.reserve(session, self.idempotency_key, self.fingerprint, by=self.by)

    async def _keep_answer(self, session: AsyncSession, out: RunOut) -> None:
        if self.idempotency_key is not None:
            answer = out.model_dump(mode="json")
            await idempotency.answered(session, self.idempotency_key, out.id, answer, by=self.by)

    async def _refuse_if_held(self) -> Scope:
        """Save the count, and tell who lost a race whom it lost to."""
        async with self.plane.db.reading() as session:
            scope = await self._scope(session)
            await self._refuse_overlap(session, scope)
        return scope

    async def _scope(self, session: AsyncSession) -> Scope:
        scope, retry_of = await Scope.resolve(session, self.order.tenant), self.order.retry_of
        if retry_of is None:
            return scope
        return replace(scope, retry_of=retry_of, among=items.failed_tenants(retry_of))

    async def _refuse_overlap(self, session: AsyncSession, scope: Scope) -> None:
        if (active := await locks.holder(session, scope, self.group)) is not None:
            raise ScopeLocked(active, views.view_url(self.plane.settings.base_url, active.id))

    def _new_run(self, scope: Scope, seen: Preflight) -> OperationRun:
        order, by, reason = self.order, self.by, self.reason
        return OperationRun(
            id=self.run_id,
            workspace_id=scope.workspace_id,
            type=self.runbook.key,
            runbook_version=self.runbook.version,
            scope_kind=scope.kind,
            tenant_id=scope.tenant_id,
            lock_group=self.group,
            tenant_span=scope.span,
            identity_mode="once" if order.identity_key else None,
            identity_key=order.identity_key,
            source=order.source,
            initiator_kind=by.kind,
            initiator_id=by.id,
            initiator_display=by.display,
            token_id=by.token_id,
            break_glass_id=by.break_glass_id,
            reason_code=reason and reason.code,
            reason_text=reason and reason.text,
            release=order.release,
            retry_of_run_id=scope.retry_of,
            preflight_id=seen.id,
            preflight_affected_count=seen.affected_count,
            context={"preflight": {"affected_count": seen.affected_count}},
        )


@asynccontextmanager
async def audited_refusals(
    plane: Plane, *, by: Actor, source: Source, subject_type: str, subject_id: str, **details: Any
) -> AsyncIterator[None]:
    """Put a refused start on record: its own transaction was rolled back with it."""
    try:
        yield
    except ServiceUnavailable:
        raise
    except OpsplaneError as refusal:
        details |= {"code": refusal.code, "message": refusal.message}
        try:
            async with plane.db.transaction() as tx:
                await audit.record(
                    tx.session, REFUSED, by=by, subject_type=subject_type, subject_id=subject_id, source=source,
                    details=details,
                )  # fmt: skip
        except OpsplaneError:
            log.exception("refusal_not_audited", subject_id=subject_id, **details)
        raise
