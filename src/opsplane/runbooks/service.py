"""The one path: pages, REST, CLI and deploy hook all look and start here."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import structlog

from opsplane.audit import log as audit
from opsplane.auth.actors import Actor
from opsplane.auth.capabilities import Capability
from opsplane.errors import OpsplaneError, ServiceUnavailable
from opsplane.runbooks import preflights, registry
from opsplane.runbooks.base import Runbook
from opsplane.runbooks.doors import Plane, Source, Started, StartOrder
from opsplane.runbooks.locks import ScopeLocked
from opsplane.runbooks.models import Preflight
from opsplane.runbooks.reasons import Reason, ReasonRequired
from opsplane.runbooks.scopes import Scope
from opsplane.runbooks.starting import NothingToDo, PerhapsStarted, Starting

__all__ = [  # with what a door needs to call it
    "ConfirmationMismatch",
    "NothingToDo",
    "PerhapsStarted",
    "Plane",
    "Source",
    "StartOrder",
    "Started",
    "audited_refusals",
    "preflight",
    "start",
]

log = structlog.get_logger()

REFUSED = "platform.ops.runbooks.refused"


class ConfirmationMismatch(OpsplaneError):
    """The typed phrase is missing or not the runbook's."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "confirmation_mismatch"

    def __init__(self, phrase: str) -> None:
        super().__init__(f"Type {phrase} to confirm.", confirmation_phrase=phrase)


async def preflight(
    plane: Plane, key: str, tenant: str | None, *, by: Actor, source: Source, exact: bool = False
) -> Preflight:
    """Look at a scope and keep what was seen; what would take long to count is estimated, unless it must be `exact`.

    Raises:
        RunbookNotFound: 404.
        MissingCapability: 403.
        TenantNotAllowed: 422.
        PreflightTooSlow: 503.
    """
    by.require(Capability.RUNBOOKS_VIEW)
    runbook = registry.find(key)
    scope = await Scope.resolve(plane.db, tenant)
    return await preflights.make(plane.db, plane.settings, runbook, scope, by=by, source=source, exact=exact)


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
        starting = Starting(plane, order, runbook, _checked(order, runbook, by=by), by, idempotency_key)
        try:
            return await starting.replayed() or await starting.queued()
        except ScopeLocked:
            if (ours := await starting.replayed()) is not None:
                return ours  # the run that holds the scope is this very request's, sent twice
            raise


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
