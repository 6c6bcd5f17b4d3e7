"""The admin plane: what members see of their tenants over JSON; nothing here changes or starts anything."""

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query

from opsplane.api import problems
from opsplane.api.admin_schemas import FindingPage, OperationPage
from opsplane.api.deps import ThePlane, encode_cursor, id_before
from opsplane.api.member_account import member_account
from opsplane.api.queries import FindingQuery, OperationQuery
from opsplane.api.rights import CanViewFindings, CanViewOperations
from opsplane.auth.members import Member, NothingHere, RoleTooWeak
from opsplane.auth.roles import Role
from opsplane.errors import InvalidInput, ServiceUnavailable
from opsplane.findings import views
from opsplane.findings.views import FindingOut
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane
from opsplane.runs import operations
from opsplane.runs.operations import OperationOut

ALWAYS = (NothingHere, RoleTooWeak, ServiceUnavailable)
DEVELOPERS = frozenset({Role.OWNER, Role.MANAGER})

admin = APIRouter()


@admin.get("/findings", responses=problems.responses(*ALWAYS, InvalidInput))
async def list_findings(who: CanViewFindings, plane: ThePlane, query: Annotated[FindingQuery, Query()]) -> FindingPage:
    """Findings of the member's tenants, newest first."""
    before = id_before(query.cursor)
    async with plane.db.reading() as session:
        found = await views.page(session, who, query, before=before, limit=query.limit + 1)
    items = found[: query.limit]
    return FindingPage(items=items, next_cursor=_next(items, found), **_for_developers(plane, who))


@admin.get("/findings/{finding_id}", responses=problems.responses(*ALWAYS))
async def show_finding(finding_id: uuid.UUID, who: CanViewFindings, plane: ThePlane) -> FindingOut:
    """One finding."""
    async with plane.db.reading() as session:
        return await views.show(session, who, finding_id)


@admin.get("/operations", responses=problems.responses(*ALWAYS, InvalidInput))
async def list_operations(
    who: CanViewOperations, plane: ThePlane, query: Annotated[OperationQuery, Query()]
) -> OperationPage:
    """Operations of the member's tenants, newest first, without those that need a stronger role."""
    before = id_before(query.cursor)
    async with plane.db.reading() as session:
        found = await operations.page(
            session, who, query, before=before, limit=query.limit + 1, base_url=plane.settings.base_url
        )
    items = found[: query.limit]
    return OperationPage(items=items, next_cursor=_next(items, found))


@admin.get("/operations/{operation_id}", responses=problems.responses(*ALWAYS))
async def show_operation(operation_id: uuid.UUID, who: CanViewOperations, plane: ThePlane) -> OperationOut:
    """One operation."""
    async with plane.db.reading() as session:
        return await operations.show(session, who, operation_id, base_url=plane.settings.base_url)


def build() -> FastAPI:
    """The admin plane's app, without its gate; its OpenAPI document is `openapi/admin.json`."""
    app = FastAPI(
        title="opsplane admin API",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        servers=[{"url": "/admin"}],
    )
    problems.install(app)
    app.include_router(member_account)
    app.include_router(admin)
    return app


def _next(items: list[FindingOut] | list[OperationOut], found: list[FindingOut] | list[OperationOut]) -> str | None:
    return encode_cursor(items[-1].id) if len(found) > len(items) else None


def _for_developers(plane: Plane, who: Member) -> dict[str, Any]:
    """Links to the system plane, where its own login waits; off unless somebody asks, and never in production."""
    held = {*who.roles.values(), *who.workspace_roles.values()}
    if not plane.settings.allow_admin_maintenance_actions or not held & DEVELOPERS:
        return {}
    url = f"{plane.settings.base_url}/system/ops/runbooks"
    links = [{"title": runbook.title, "runbook": runbook.key, "url": url} for runbook in registry.every()]
    return {"maintenance_actions": links}
