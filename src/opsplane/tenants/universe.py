"""The allowed tenant universe: every tenant of the workspace but the platform itself."""

import uuid
from http import HTTPStatus

from sqlalchemy import Select, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.db import Database
from opsplane.errors import Conflict, InvalidInput, NotFound, OpsplaneError
from opsplane.lookups import Lookup, parameter
from opsplane.tenants.models import DEFAULT_WORKSPACE, PLATFORM_TENANT, Tenant, Workspace

MAX_EXTERNAL_ID = 200


class TenantNotAllowed(OpsplaneError):
    """The tenant is unknown, or it is the platform tenant; the two look alike."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "tenant_not_allowed"

    def __init__(self, tenant: str) -> None:
        super().__init__(f"No tenant {tenant!r} can be targeted; pick one from `opsplane tenants list`.", tenant=tenant)


async def workspace_id(session: AsyncSession) -> uuid.UUID:
    """The workspace this installation serves."""
    found = await session.scalar(select(Workspace.id).where(Workspace.slug == DEFAULT_WORKSPACE))
    if found is None:
        raise NotFound("The default workspace is missing; run `opsplane migrate`.")
    return found


def allowed(workspace: uuid.UUID) -> Select[Tenant]:
    """Every tenant a runbook may touch; the only query from which tenants are picked."""
    return select(Tenant).where(Tenant.workspace_id == workspace, Tenant.external_id != PLATFORM_TENANT)


async def pick(session: AsyncSession, workspace: uuid.UUID, tenant: str) -> Tenant:
    """The allowed tenant with this id or external id.

    Raises:
        TenantNotAllowed: there is none (422).
    """
    matches = Tenant.external_id == tenant
    if (as_id := _as_uuid(tenant)) is not None:
        matches = or_(matches, Tenant.id == as_id)
    found = await session.scalar(allowed(workspace).where(matches).limit(1))
    if found is None:
        raise TenantNotAllowed(tenant)
    return found


async def look(db: Database, tenant: str | None) -> tuple[uuid.UUID, uuid.UUID | None, str | None]:
    """The workspace, and the id and external id of the allowed tenant that has this id or external id.

    Raises:
        TenantNotAllowed: there is none (422).
    """
    rows = await db.look(AT_HOME, tenant=tenant, as_id=None if tenant is None else _as_uuid(tenant))
    if not rows:
        raise NotFound("The default workspace is missing; run `opsplane migrate`.")
    workspace, tenant_id, external_id = rows[0]
    if tenant is not None and tenant_id is None:
        raise TenantNotAllowed(tenant)
    return workspace, tenant_id, external_id


def search(workspace: uuid.UUID, query: str | None) -> Select[Tenant]:
    """Allowed tenants whose name or external id contains `query`, in the order of their external ids."""
    tenants = allowed(workspace).order_by(Tenant.external_id)
    if not query:
        return tenants
    return tenants.where(
        or_(Tenant.external_id.icontains(query, autoescape=True), Tenant.name.icontains(query, autoescape=True))
    )


async def add(session: AsyncSession, workspace: uuid.UUID, external_id: str, *, name: str | None = None) -> Tenant:
    """Add a tenant.

    Raises:
        InvalidInput: the external id is empty, too long or reserved.
        Conflict: it is taken.
    """
    external_id = external_id.strip()
    if not external_id or len(external_id) > MAX_EXTERNAL_ID or not external_id.isprintable():
        raise InvalidInput(f"A tenant's external id has 1 to {MAX_EXTERNAL_ID} printable characters.")
    if await session.scalar(select(Tenant.id).where(Tenant.external_id == external_id)):
        raise Conflict(f"There is a tenant {external_id!r} already.")
    tenant = Tenant(workspace_id=workspace, external_id=external_id, name=name or external_id)
    session.add(tenant)
    await session.flush()
    return tenant


def _as_uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


_NAMED = or_(Tenant.external_id == parameter("tenant"), Tenant.id == parameter("as_id"))
AT_HOME = Lookup.of(
    select(Workspace.id, Tenant.id, Tenant.external_id)
    .select_from(Workspace)
    .outerjoin(Tenant, and_(Tenant.workspace_id == Workspace.id, Tenant.external_id != PLATFORM_TENANT, _NAMED))
    .where(Workspace.slug == DEFAULT_WORKSPACE)
    .limit(1)
)
