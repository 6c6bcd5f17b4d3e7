"""The system plane: runbooks, preflights, runs and tenants over JSON."""

import uuid
from typing import Annotated

from fastapi import APIRouter, FastAPI, Header, Query, Response
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.api import pages, problems
from opsplane.api.account import account
from opsplane.api.audit import audit
from opsplane.api.break_glass import break_glass
from opsplane.api.deps import Cursor, Limit, ThePlane, bad_cursor, decode_cursor, encode_cursor, id_before
from opsplane.api.live import live
from opsplane.api.rights import CanStartRunbooks, CanViewRunbooks, CanViewRuns
from opsplane.api.schemas import (
    ItemPage,
    LastRunOut,
    PreflightIn,
    PreflightOut,
    RunbookOut,
    RunbookPage,
    RunPage,
    StartIn,
    TenantOut,
    TenantPage,
)
from opsplane.auth.actors import Actor, ActorKind
from opsplane.auth.tokens import InvalidToken
from opsplane.errors import InvalidInput, MissingCapability, NotFound, ServiceUnavailable
from opsplane.runbooks import registry, service
from opsplane.runbooks.base import Runbook
from opsplane.runbooks.idempotency import IdempotencyKeyReused, InvalidIdempotencyKey
from opsplane.runbooks.locks import ScopeLocked
from opsplane.runbooks.models import Preflight
from opsplane.runbooks.preflights import PreflightStale, PreflightTooSlow
from opsplane.runbooks.reasons import ReasonRequired
from opsplane.runbooks.registry import RunbookNotFound
from opsplane.runbooks.scopes import ScopeKind
from opsplane.runbooks.service import ConfirmationMismatch, NothingToDo, Plane, Source, StartOrder
from opsplane.runs import views
from opsplane.runs.models import OperationRun
from opsplane.runs.states import Outcome, Status
from opsplane.runs.views import RunOut, ScopeOut
from opsplane.tenants import universe
from opsplane.tenants.models import Tenant
from opsplane.tenants.universe import TenantNotAllowed

ALWAYS = (InvalidToken, MissingCapability, ServiceUnavailable)

MAX_DIGITS = 18  # of a bigint

ops = APIRouter(prefix="/ops")


@ops.get("/runbooks", responses=problems.responses(*ALWAYS))
async def list_runbooks(who: CanViewRunbooks, plane: ThePlane) -> RunbookPage:
    """Every runbook with its last run."""
    async with plane.db.reading() as session:
        last = await views.last_runs(session)
    items = [_runbook(plane, runbook, last.get(runbook.key)) for runbook in registry.every()]
    return RunbookPage(items=items, next_cursor=None)


@ops.get("/runbooks/{key}", responses=problems.responses(*ALWAYS, RunbookNotFound))
async def show_runbook(key: str, who: CanViewRunbooks, plane: ThePlane) -> RunbookOut:
    """One runbook with its last run."""
    runbook = registry.find(key)
    async with plane.db.reading() as session:
        last = await views.last_runs(session)
    return _runbook(plane, runbook, last.get(key))


@ops.post(
    "/runbooks/{key}/preflight",
    responses=problems.responses(*ALWAYS, RunbookNotFound, TenantNotAllowed, PreflightTooSlow),
)
async def preflight_runbook(key: str, body: PreflightIn, who: CanViewRunbooks, plane: ThePlane) -> PreflightOut:
    """Count what a run would change; nothing is written but the preflight itself."""
    kept = await service.preflight(plane, key, body.scope.tenant_id, by=who, source=_source(who))
    all_tenants = kept.tenant_id is None
    return PreflightOut(
        preflight_id=kept.id,
        runbook=kept.runbook,
        scope=await _scope(plane, kept),
        affected_count=kept.affected_count,
        total_count=kept.total_count,
        estimated_tenants=kept.estimated_tenants,
        reason_required=all_tenants or who.break_glass,
        confirmation_phrase=registry.find(key).confirmation_phrase if all_tenants else None,
        can_start=kept.affected_count > 0,
        computed_at=kept.computed_at,
        expires_at=kept.expires_at,
    )


@ops.post(
    "/runbooks/{key}/start",
    status_code=202,
    responses=problems.responses(
        *ALWAYS, RunbookNotFound, TenantNotAllowed, ConfirmationMismatch, ReasonRequired, IdempotencyKeyReused,
        InvalidIdempotencyKey, ScopeLocked, NothingToDo, PreflightStale, PreflightTooSlow,
    ),
)  # fmt: skip
async def start_runbook(
    key: str,
    body: StartIn,
    who: CanStartRunbooks,
    plane: ThePlane,
    response: Response,
    idempotency_key: Annotated[str | None, Header(description="The same key gets the same run.")] = None,
) -> RunOut:
    """Queue a run. Follow it at the `Location` returned."""
    order = StartOrder(
        runbook=key,
        tenant=body.scope.tenant_id,
        source=_source(who),
        reason=(body.reason.code, body.reason.text) if body.reason else None,
        confirmation=body.confirmation,
        preflight_id=body.preflight_id,
        force=body.force,
    )
    started = await service.start(plane, order, by=who, idempotency_key=idempotency_key)
    response.headers["Location"] = f"/system/ops/runs/{started.run.id}"
    if started.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return started.run


@ops.get("/runs", responses=problems.responses(*ALWAYS, InvalidInput, TenantNotAllowed))
async def list_runs(
    who: CanViewRuns,
    plane: ThePlane,
    runbook: Annotated[str | None, Query(max_length=200)] = None,
    status: Status | None = None,
    outcome: Outcome | None = None,
    tenant: Annotated[str | None, Query(max_length=200, description="Id or external id.")] = None,
    source: Source | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> RunPage:
    """Runs, newest first."""
    before = id_before(cursor)
    async with plane.db.reading() as session:
        tenant_id = await _tenant_id(session, tenant)
        runs = views.newest_first(
            runbook=runbook, status=status, outcome=outcome, tenant_id=tenant_id, source=source, before=before,
            limit=limit + 1,
        )  # fmt: skip
        found = await views.page(session, runs, base_url=plane.settings.base_url)
    more = len(found) > limit
    return RunPage(items=found[:limit], next_cursor=encode_cursor(found[limit - 1].id) if more else None)


@ops.get("/runs/{run_id}", responses=problems.responses(*ALWAYS, NotFound))
async def show_run(run_id: uuid.UUID, who: CanViewRuns, plane: ThePlane) -> RunOut:
    """One run with its counts of this moment and its failures."""
    async with plane.db.reading() as session:
        return await views.show(session, run_id, base_url=plane.settings.base_url)


@ops.get("/runs/{run_id}/items", responses=problems.responses(*ALWAYS, NotFound, InvalidInput))
async def list_items(
    run_id: uuid.UUID, who: CanViewRuns, plane: ThePlane, cursor: Cursor = None, limit: Limit = 50
) -> ItemPage:
    """The run's items, one a tenant, in their order of work."""
    after = _as_int(decode_cursor(cursor))
    async with plane.db.reading() as session:
        rows = await views.items_page(session, run_id, after=after, limit=limit + 1)
    more = len(rows) > limit
    return ItemPage(
        items=[views.present_item(item, external_id) for item, external_id in rows[:limit]],
        next_cursor=encode_cursor(rows[limit - 1][0].ordinal) if more else None,
    )


@ops.get("/tenants", responses=problems.responses(*ALWAYS, InvalidInput))
async def list_tenants(
    who: CanViewRunbooks,
    plane: ThePlane,
    q: Annotated[str | None, Query(max_length=200, description="Part of a name or external id.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> TenantPage:
    """The tenants that runbooks may target, by external id."""
    after = decode_cursor(cursor)
    async with plane.db.reading() as session:
        tenants = universe.search(await universe.workspace_id(session), q).limit(limit + 1)
        if after is not None:
            tenants = tenants.where(Tenant.external_id > after)
        found = list(await session.scalars(tenants))
    more = len(found) > limit
    return TenantPage(
        items=[TenantOut(id=tenant.id, external_id=tenant.external_id, name=tenant.name) for tenant in found[:limit]],
        next_cursor=encode_cursor(found[limit - 1].external_id) if more else None,
    )


def build() -> FastAPI:
    """The system plane's app, without its gate; its OpenAPI document is `openapi/system.json`."""
    app = FastAPI(
        title="opsplane system API",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        servers=[{"url": "/system"}],
    )
    problems.install(app)
    app.include_router(pages.login("system"))
    app.include_router(account)
    app.include_router(break_glass)
    app.include_router(ops)
    app.include_router(live)
    app.include_router(audit)
    return app


async def _scope(plane: Plane, kept: Preflight) -> ScopeOut:
    kind = ScopeKind(kept.scope_kind)
    if kept.tenant_id is None:
        return ScopeOut(kind=kind)
    async with plane.db.reading() as session:
        tenant = await universe.pick(session, kept.workspace_id, str(kept.tenant_id))
    return ScopeOut(kind=kind, tenant_id=tenant.id, tenant_external_id=tenant.external_id)


def _source(who: Actor) -> Source:
    return Source.SYSTEM_UI if who.kind is ActorKind.PLATFORM_USER else Source.API


def _runbook(plane: Plane, runbook: Runbook, last: OperationRun | None) -> RunbookOut:
    return RunbookOut(
        id=runbook.key,
        version=runbook.version,
        title=runbook.title,
        description=runbook.description,
        scopes=list(ScopeKind),
        confirmation_phrase=runbook.confirmation_phrase,
        capability=runbook.capability,
        on_deploy=runbook.on_deploy,
        last_run=last and _last_run(plane, last),
    )


def _last_run(plane: Plane, run: OperationRun) -> LastRunOut:
    return LastRunOut(
        id=run.id,
        status=Status(run.status),
        outcome=Outcome(run.outcome),
        created_at=run.created_at,
        view_url=views.view_url(plane.settings.base_url, run.id),
    )


async def _tenant_id(session: AsyncSession, tenant: str | None) -> uuid.UUID | None:
    if tenant is None:
        return None
    return (await universe.pick(session, await universe.workspace_id(session), tenant)).id


def _as_int(position: str | None) -> int | None:
    if position is None:
        return None
    if not position.isdecimal() or len(position) > MAX_DIGITS:
        raise bad_cursor()
    return int(position)
