"""The system plane: runbooks, preflights, runs and tenants over JSON."""

import uuid
from dataclasses import dataclass
from typing import Annotated, Any, Self

from fastapi import APIRouter, FastAPI, Header, Query, Response
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.api import problems, queries
from opsplane.api.account import account
from opsplane.api.alerts import alerts
from opsplane.api.audit import audit
from opsplane.api.break_glass import break_glass
from opsplane.api.control import control
from opsplane.api.deps import (
    ThePlane,
    bad_cursor,
    decode_cursor,
    encode_cursor,
    id_before,
    source_of,
)
from opsplane.api.encoding import Encoded
from opsplane.api.live import live
from opsplane.api.notifications import bell
from opsplane.api.queries import ItemQuery, RunQuery, TenantQuery
from opsplane.api.rights import CanStartRunbooks, CanViewRunbooks, CanViewRuns
from opsplane.api.schemas import (
    ItemPage,
    PreflightIn,
    PreflightOut,
    RunbookOut,
    RunbookPage,
    RunPage,
    StartIn,
    TenantOut,
    TenantPage,
)
from opsplane.auth.actors import Actor
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
from opsplane.runbooks.service import ConfirmationMismatch, NothingToDo, Plane, StartOrder
from opsplane.runs import briefs, item_views, views
from opsplane.runs.briefs import RunBrief
from opsplane.runs.schemas import RunOut, ScopeOut
from opsplane.runs.views import Wanted
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
        runs = await _Runs.read(session, plane)
    return RunbookPage(items=[runs.of(runbook) for runbook in registry.every()], next_cursor=None)


@ops.get("/runbooks/{key}", responses=problems.responses(*ALWAYS, RunbookNotFound))
async def show_runbook(key: str, who: CanViewRunbooks, plane: ThePlane) -> RunbookOut:
    """One runbook with its last run."""
    runbook = registry.find(key)
    async with plane.db.reading() as session:
        return (await _Runs.read(session, plane)).of(runbook)


@ops.post(
    "/runbooks/{key}/preflight",
    responses=problems.responses(*ALWAYS, RunbookNotFound, TenantNotAllowed, PreflightTooSlow),
)
async def preflight_runbook(key: str, body: PreflightIn, who: CanViewRunbooks, plane: ThePlane) -> PreflightOut:
    """Count, or estimate, what a run would change; nothing is written but the preflight itself."""
    kept = await service.preflight(plane, key, body.scope.tenant_id, by=who, source=source_of(who), exact=body.exact)
    seen = kept.impact
    all_tenants = kept.tenant_id is None
    return PreflightOut(
        preflight_id=kept.id,
        runbook=kept.runbook,
        scope=await _scope(plane, kept),
        affected_count=kept.affected_count,
        total_count=kept.total_count,
        estimated_tenants=kept.estimated_tenants,
        estimated=seen.estimated,
        margin_percent=seen.margin_percent,
        total_estimated=seen.total_estimated,
        said=seen.said,
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
        source=source_of(who),
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


@ops.get("/runs", response_model=RunPage, responses=problems.responses(*ALWAYS, InvalidInput, TenantNotAllowed))
async def list_runs(who: CanViewRuns, plane: ThePlane, query: Annotated[RunQuery, Query()]) -> Response:
    """Runs, newest first."""
    return Encoded(await page_of_runs(who, plane, query))


async def page_of_runs(who: Actor, plane: Plane, query: RunQuery) -> dict[str, Any]:
    """A page of runs as JSON has it; `RunPage` says what is in it."""
    wanted = Wanted(
        runbook=query.runbook,
        status=query.status,
        outcome=query.outcome,
        tenant_id=await _tenant_id(plane, query.tenant),
        source=query.source,
        within=queries.since(query.since),
    )
    before, base_url = id_before(query.cursor), plane.settings.base_url
    found = await views.page(plane.db, wanted, before=before, limit=query.limit + 1, base_url=base_url)
    more = len(found) > query.limit
    shown = found[: query.limit]
    return {"items": shown, "next_cursor": encode_cursor(shown[-1]["id"]) if more else None}


@ops.get("/runs/{run_id}", responses=problems.responses(*ALWAYS, NotFound))
async def show_run(run_id: uuid.UUID, who: CanViewRuns, plane: ThePlane) -> RunOut:
    """One run with its counts of this moment and its failures."""
    async with plane.db.reading() as session:
        return await views.show(session, run_id, base_url=plane.settings.base_url)


@ops.get("/runs/{run_id}/items", responses=problems.responses(*ALWAYS, NotFound, InvalidInput))
async def list_items(
    run_id: uuid.UUID, who: CanViewRuns, plane: ThePlane, query: Annotated[ItemQuery, Query()]
) -> ItemPage:
    """The run's items, one a tenant, in their order of work."""
    after = _as_int(decode_cursor(query.cursor))
    async with plane.db.reading() as session:
        items = await item_views.page(session, run_id, state=query.state, after=after, limit=query.limit + 1)
    more = len(items) > query.limit
    last = items[: query.limit][-1:]
    return ItemPage(items=items[: query.limit], next_cursor=encode_cursor(last[0].ordinal) if more else None)


@ops.get("/tenants", responses=problems.responses(*ALWAYS, InvalidInput))
async def list_tenants(who: CanViewRunbooks, plane: ThePlane, query: Annotated[TenantQuery, Query()]) -> TenantPage:
    """The tenants that runbooks may target, by external id."""
    after, limit = decode_cursor(query.cursor), query.limit
    async with plane.db.reading() as session:
        tenants = universe.search(await universe.workspace_id(session), query.q).limit(limit + 1)
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
    app.include_router(account)
    app.include_router(break_glass)
    app.include_router(ops)
    app.include_router(control)
    app.include_router(live)
    app.include_router(audit)
    app.include_router(alerts)
    app.include_router(bell)
    return app


async def _scope(plane: Plane, kept: Preflight) -> ScopeOut:
    kind = ScopeKind(kept.scope_kind)
    if kept.tenant_id is None:
        return ScopeOut(kind=kind)
    async with plane.db.reading() as session:
        tenant = await universe.pick(session, kept.workspace_id, str(kept.tenant_id))
    return ScopeOut(kind=kind, tenant_id=tenant.id, tenant_external_id=tenant.external_id)


@dataclass(frozen=True)
class _Runs:
    last: dict[str, RunBrief]
    active: list[RunBrief]

    @classmethod
    async def read(cls, session: AsyncSession, plane: Plane) -> Self:
        base_url = plane.settings.base_url
        return cls(
            await briefs.last_runs(session, base_url=base_url), await briefs.active_runs(session, base_url=base_url)
        )

    def of(self, runbook: Runbook) -> RunbookOut:
        group = runbook.lock_group or runbook.key
        return RunbookOut(
            id=runbook.key,
            version=runbook.version,
            title=runbook.title,
            description=runbook.description,
            scopes=list(ScopeKind),
            confirmation_phrase=runbook.confirmation_phrase,
            capability=runbook.capability,
            on_deploy=runbook.on_deploy,
            last_run=self.last.get(runbook.key),
            active_runs=[run for run in self.active if run.lock_group == group],
        )


async def _tenant_id(plane: Plane, tenant: str | None) -> uuid.UUID | None:
    return None if tenant is None else (await universe.look(plane.db, tenant))[1]


def _as_int(position: str | None) -> int | None:
    if position is None:
        return None
    if not position.isdecimal() or len(position) > MAX_DIGITS:
        raise bad_cursor()
    return int(position)
