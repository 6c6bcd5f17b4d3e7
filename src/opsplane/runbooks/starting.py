"""The start of one run: a single transaction, and what becomes of it when others or the network interfere."""

import asyncio
import uuid
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import structlog
from sqlalchemy import Uuid, insert
from sqlalchemy.exc import DBAPIError

from opsplane.audit.log import AuditUnavailable
from opsplane.auth.actors import Actor
from opsplane.db import RACES, first_line, new_id, sqlstate
from opsplane.direct import Bare, Begun, directly
from opsplane.errors import Conflict, ServiceUnavailable
from opsplane.lookups import Lookup, parameter
from opsplane.queue import JOBS_PER_WAKE
from opsplane.runbooks import idempotency, locks, preflights
from opsplane.runbooks.base import Runbook
from opsplane.runbooks.doors import Plane, Started, StartOrder
from opsplane.runbooks.locks import ScopeLocked
from opsplane.runbooks.preflights import Seen
from opsplane.runbooks.reasons import Reason
from opsplane.runbooks.scopes import Scope, span
from opsplane.runs import announcing, documents, items, lifecycle, processes, summary, views
from opsplane.runs.documents import Pulse
from opsplane.runs.models import OperationRun
from opsplane.runs.schemas import RunOut
from opsplane.runs.states import Outcome, Status

log = structlog.get_logger()

STARTED = "platform.ops.runbooks.started"
NOTHING_YET = dict.fromkeys(summary.KEYS, 0)
FIELDS = (
    "id", "status", "outcome", "summary_counts", "workspace_id", "type", "runbook_version", "scope_kind", "tenant_id",
    "lock_group", "identity_mode", "identity_key", "source", "initiator_kind", "initiator_id", "initiator_display",
    "token_id", "break_glass_id", "reason_code", "reason_text", "release", "retry_of_run_id", "preflight_id",
    "preflight_affected_count", "context",
)  # fmt: skip
INSERT = Lookup.of(
    insert(OperationRun)
    .values(tenant_span=span(parameter("bound", Uuid())))
    .returning(
        OperationRun.created_at, OperationRun.started_at, OperationRun.paused_at, OperationRun.stalled_at,
        OperationRun.completed_at, OperationRun.asks, processes.alive_workers().exists().label("workers"),
    ),
    FIELDS,
)  # fmt: skip


class NothingToDo(Conflict):
    """The preflight found no row to change, and nobody forced the run."""

    code = "nothing_to_do"

    def __init__(self) -> None:
        super().__init__("The preflight found nothing to do; start with force to run all the same.")


class PerhapsStarted(ServiceUnavailable):
    """The database went away in the start transaction and did not come back to tell how that ended."""

    def __init__(self) -> None:
        super().__init__(
            "The database went away before it said whether the run was started; look at the runs, or repeat this with "
            "its Idempotency-Key, before you start another.",
            service="database",
        )


@dataclass(frozen=True)
class Starting:
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
        stored = await idempotency.find(self.plane.db, self.idempotency_key, self.fingerprint, by=self.by)
        return Started(RunOut.model_validate(stored), replayed=True) if stored else None

    async def queued(self) -> Started:
        """The start transaction, once more if it lost a race that its locks should have ordered."""
        preflight_id = self.order.preflight_id
        if preflight_id is None:
            scope = await self._refuse_if_held()
            seen = await preflights.make(
                self.plane.db, self.plane.settings, self.runbook, scope, by=self.by, source=self.order.source
            )
            preflight_id = seen.id
        try:
            return await self._transaction(preflight_id)
        except AuditUnavailable:
            raise  # the database itself answers
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
        scope = await self._scope()
        if scope.retry_of is None:
            async with self.plane.db.bare() as bare:
                return await self._started(bare, scope, preflight_id)
        async with self.plane.db.transaction() as tx:
            return await self._started(tx.session, scope, preflight_id)

    async def _started(self, session: Begun, scope: Scope, preflight_id: uuid.UUID) -> Started:
        if (stored := await self._reserve_key(session)) is not None:
            return Started(RunOut.model_validate(stored), replayed=True)
        await locks.take(session, scope, self.group)
        await self._refuse_overlap(session, scope)
        seen = await preflights.consume(session, preflight_id, self.runbook, scope, by=self.by)
        if seen.affected == 0 and not self.order.force:
            raise NothingToDo
        values = self._values(scope, preflight_id, seen)
        [created] = await directly(session, INSERT, **values, bound=scope.tenant_id)
        self.written.set()
        if not isinstance(session, Bare):
            await lifecycle.begin(session, self.run_id)  # a retry: workers of the release before would take all tenants
        await self._record(session, OperationRun(**values))
        out = await self._shown(session, scope, values | dict(created))
        await self._keep_answer(session, out)
        self._tell_after_commit(session, scope)
        return Started(out, replayed=False)

    async def _record(self, session: Begun, run: OperationRun) -> None:
        details = {"type": run.type, "affected_count": run.preflight_affected_count, "release": run.release}
        if run.retry_of_run_id is not None:
            details["retry_of_run_id"] = str(run.retry_of_run_id)
        await lifecycle.record(session, STARTED, run, by=self.by, details=details)

    async def _shown(self, session: Begun, scope: Scope, row: dict[str, Any]) -> RunOut:
        """The run as it was written; one that has begun has numbers to be read."""
        base_url = self.plane.settings.base_url
        if not isinstance(session, Bare):
            return await views.show(session, self.run_id, base_url=base_url)
        row |= {"tenant_external_id": scope.tenant_external_id, "elapsed_s": 0.0, "duration_ms": None}
        row |= row["context"]["preflight"] | {"throttled_reason": None, "throttled_at": None}
        pulse = Pulse(workers=row["workers"])
        return RunOut.model_validate(documents.of(row, NOTHING_YET, base_url=base_url, pulse=pulse))

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
        scope = await self._scope()
        async with self.plane.db.transaction() as tx:
            await locks.take(tx.session, scope, self.group)
            if await tx.session.get(OperationRun, self.run_id) is None:
                return None
            self._tell_after_commit(tx.session, scope)
            return await views.show(tx.session, self.run_id, base_url=self.plane.settings.base_url)

    def _tell_after_commit(self, session: Begun, scope: Scope) -> None:
        jobs = JOBS_PER_WAKE if scope.tenant_id is None else 1  # one tenant is work for one worker
        announcing.wake_after_commit(session, self.plane.queue, self.run_id, jobs=jobs)
        announcing.after_commit(session, self.plane.queue, self.run_id)

    async def _reserve_key(self, session: Begun) -> dict[str, Any] | None:
        if self.idempotency_key is None:
            return None
        return await idempotency.reserve(session, self.idempotency_key, self.fingerprint, by=self.by)

    async def _keep_answer(self, session: Begun, out: RunOut) -> None:
        if self.idempotency_key is not None:
            answer = out.model_dump(mode="json")
            await idempotency.answered(session, self.idempotency_key, out.id, answer, by=self.by)

    async def _refuse_if_held(self) -> Scope:
        """Save the count, and tell who lost a race whom it lost to."""
        scope = await self._scope()
        async with self.plane.db.reading() as session:
            await self._refuse_overlap(session, scope)
        return scope

    async def _scope(self) -> Scope:
        scope, retry_of = await Scope.resolve(self.plane.db, self.order.tenant), self.order.retry_of
        if retry_of is None:
            return scope
        return replace(scope, retry_of=retry_of, among=items.failed_tenants(retry_of))

    async def _refuse_overlap(self, session: Begun, scope: Scope) -> None:
        if (active := await locks.holder(session, scope, self.group)) is not None:
            raise ScopeLocked(active, views.view_url(self.plane.settings.base_url, active.id))

    def _values(self, scope: Scope, preflight_id: uuid.UUID, seen: Seen) -> dict[str, Any]:
        order, by, reason = self.order, self.by, self.reason
        return {
            "id": self.run_id,
            "status": Status.QUEUED,
            "outcome": Outcome.PENDING,
            "summary_counts": {},
            "workspace_id": scope.workspace_id,
            "type": self.runbook.key,
            "runbook_version": self.runbook.version,
            "scope_kind": scope.kind,
            "tenant_id": scope.tenant_id,
            "lock_group": self.group,
            "identity_mode": "once" if order.identity_key else None,
            "identity_key": order.identity_key,
            "source": order.source,
            "initiator_kind": by.kind,
            "initiator_id": by.id,
            "initiator_display": by.display,
            "token_id": by.token_id,
            "break_glass_id": by.break_glass_id,
            "reason_code": reason and reason.code,
            "reason_text": reason and reason.text,
            "release": order.release,
            "retry_of_run_id": scope.retry_of,
            "preflight_id": preflight_id,
            "preflight_affected_count": seen.affected,
            "context": {"preflight": {"affected_count": seen.affected, "estimated": seen.estimated}},
        }
