"""Preflights: count in a READ ONLY transaction, keep the result, let one run start from it."""

import uuid
from dataclasses import asdict, dataclass
from datetime import timedelta
from http import HTTPStatus

from sqlalchemy import Uuid, func, update
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.audit import log as audit
from opsplane.auth.actors import Actor
from opsplane.config import Settings
from opsplane.db import Database, sqlstate
from opsplane.direct import Begun, directly
from opsplane.errors import Conflict, OpsplaneError
from opsplane.lookups import Lookup, parameter
from opsplane.runbooks.base import Runbook
from opsplane.runbooks.impact import Impact
from opsplane.runbooks.models import Preflight
from opsplane.runbooks.scopes import Scope

PREFLIGHT = "platform.ops.runbooks.preflight"


class PreflightStale(Conflict):
    """The preflight is unknown, used, expired, somebody else's, or of another scope or version."""

    code = "preflight_stale"

    def __init__(self, preflight_id: uuid.UUID) -> None:
        super().__init__(
            "This preflight cannot be started from: it is used, expired, somebody else's, or of another scope or "
            "runbook version. Run the preflight again.",
            preflight_id=str(preflight_id),
        )


class PreflightTooSlow(OpsplaneError):
    """Counting took longer than OPSPLANE_PREFLIGHT_TIMEOUT_S."""

    status, code = HTTPStatus.SERVICE_UNAVAILABLE, "preflight_too_slow"


async def make(
    db: Database, settings: Settings, runbook: Runbook, scope: Scope, *, by: Actor, source: str, exact: bool = False
) -> Preflight:
    """Look at a scope, keep what was seen, and put on record who looked.

    Unless it must be `exact`, a count that would take longer than OPSPLANE_PREFLIGHT_EXACT_MS is estimated.

    Raises:
        PreflightTooSlow: 503.
    """
    impact = await look(db, settings, runbook, scope, exact=exact)
    async with db.transaction() as tx:
        kept = await keep(tx.session, settings, runbook, scope, impact, by=by)
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


async def look(db: Database, settings: Settings, runbook: Runbook, scope: Scope, *, exact: bool = False) -> Impact:
    """Count or estimate what the runbook would change; nothing can be written meanwhile.

    Raises:
        PreflightTooSlow: 503.
    """
    try:
        async with db.reading(timeout_s=settings.preflight_timeout_s) as session:
            if not exact and (guess := await _guess(session, settings, runbook, scope)):
                return guess
            return await runbook.preflight(session, scope.tenant_ids())
    except Exception as error:
        if sqlstate(error) != "57014":
            raise
        raise PreflightTooSlow(
            f"Counting took longer than {settings.preflight_timeout_s} s; add the index that `opsplane doctor` offers "
            "for the runbook, pick a single tenant, or raise OPSPLANE_PREFLIGHT_TIMEOUT_S.",
        ) from error


async def _guess(session: AsyncSession, settings: Settings, runbook: Runbook, scope: Scope) -> Impact | None:
    guess = await runbook.estimate(session, scope.tenant_ids(), within_s=settings.preflight_exact_ms / 1000)
    # That there is nothing to do must be counted.
    return guess if guess is not None and guess.affected > 0 else None


async def keep(
    session: AsyncSession, settings: Settings, runbook: Runbook, scope: Scope, impact: Impact, *, by: Actor
) -> Preflight:
    """Store what was seen, so that a run can be started from it."""
    kept = Preflight(
        workspace_id=scope.workspace_id,
        runbook=runbook.key,
        runbook_version=runbook.version,
        scope_kind=scope.kind,
        tenant_id=scope.tenant_id,
        retry_of_run_id=scope.retry_of,
        principal=by.principal,
        affected_count=impact.affected,
        total_count=impact.total,
        estimated_tenants=impact.tenants,
        total_estimated=impact.total_estimated,
        margin_percent=impact.margin_percent,
        expires_at=func.clock_timestamp() + timedelta(seconds=settings.preflight_ttl_s),
    )
    session.add(kept)
    await session.flush()
    await session.refresh(kept)
    return kept


@dataclass(frozen=True)
class Seen:
    """How many rows a preflight had found, or held likely."""

    affected: int
    estimated: bool


async def consume(session: Begun, preflight_id: uuid.UUID, runbook: Runbook, scope: Scope, *, by: Actor) -> Seen:
    """Use a preflight up: once, by who looked, for what was looked at, before it expires; what it had found.

    Raises:
        PreflightStale: 409.
    """
    rows = await directly(
        session,
        USE,
        preflight=preflight_id,
        key=runbook.key,
        version=runbook.version,
        kind=str(scope.kind),
        tenant=scope.tenant_id,
        retry_of=scope.retry_of,
        by=by.principal,
    )
    if not rows:
        raise PreflightStale(preflight_id)
    return Seen(rows[0]["affected_count"], estimated=rows[0]["margin_percent"] is not None)


USE = Lookup.of(
    update(Preflight)
    .where(
        Preflight.id == parameter("preflight"),
        Preflight.runbook == parameter("key"),
        Preflight.runbook_version == parameter("version"),
        Preflight.scope_kind == parameter("kind"),
        Preflight.tenant_id.is_not_distinct_from(parameter("tenant", Uuid())),
        Preflight.retry_of_run_id.is_not_distinct_from(parameter("retry_of", Uuid())),
        Preflight.principal == parameter("by"),
        Preflight.expires_at > func.clock_timestamp(),
        Preflight.used_at.is_(None),
    )
    .values(used_at=func.clock_timestamp())
    .returning(Preflight.affected_count, Preflight.margin_percent)
)
