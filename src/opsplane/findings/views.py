"""What a tenant's members see of its findings."""

import uuid
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.auth import members
from opsplane.auth.members import Member, NothingHere
from opsplane.auth.roles import TenantCapability
from opsplane.findings.models import Finding, FindingStatus, Severity
from opsplane.tenants import newest
from opsplane.tenants.models import Tenant

VIEW = TenantCapability.FINDINGS_VIEW
ENDED = (FindingStatus.RESOLVED, FindingStatus.CLOSED)


class FindingOut(BaseModel):
    """A finding; times that are not known are null."""

    id: uuid.UUID
    tenant_id: uuid.UUID
    tenant_external_id: str
    external_ref: str
    title: str
    severity: Severity
    status: FindingStatus
    first_seen_at: datetime | None
    last_seen_at: datetime | None
    times_seen: int | None
    due_at: datetime | None
    triaged_at: datetime | None
    resolved_at: datetime | None
    closed_at: datetime | None
    created_at: datetime


class FindingFilter(BaseModel):
    """Which findings; what is not given does not narrow."""

    tenant: Annotated[str | None, Field(max_length=200, description="Id or external id.")] = None
    status: FindingStatus | None = None
    severity: Severity | None = None
    q: Annotated[str | None, Field(max_length=200, description="Part of a title or external reference.")] = None
    open: Annotated[bool | None, Field(description="Neither resolved nor closed.")] = None
    overdue: Annotated[bool | None, Field(description="Open after its due date.")] = None


async def page(
    session: AsyncSession, who: Member, wanted: FindingFilter, *, before: uuid.UUID | None, limit: int
) -> list[FindingOut]:
    """Findings the member may see, newest first; ids sort by time, so a page goes on before the last id.

    Raises:
        NothingHere: they are no member of the tenant asked for (404).
        RoleTooWeak: 403.
    """
    conditions = _conditions(wanted)
    if wanted.tenant is not None:
        tenant = await members.pick(session, who, wanted.tenant, VIEW)
        found = newest.of_each(Finding, Tenant.id == tenant.id, *conditions, before=before, limit=limit)
    elif who.workspaces_with(VIEW):
        found = newest.of_all(Finding, who.tenants_with(VIEW), *conditions, before=before, limit=limit)
    else:
        found = newest.of_each(Finding, who.tenants_with(VIEW), *conditions, before=before, limit=limit)
    return [_present(finding, external_id) for finding, external_id in await session.execute(found)]


async def show(session: AsyncSession, who: Member, finding_id: uuid.UUID) -> FindingOut:
    """One finding.

    Raises:
        NothingHere: there is none, or the member is none of its tenant (404).
        RoleTooWeak: 403.
    """
    found = select(Finding, Tenant).join(Tenant, Tenant.id == Finding.tenant_id).where(Finding.id == finding_id)
    row = (await session.execute(found)).one_or_none()
    if row is None:
        raise NothingHere
    finding, tenant = row
    who.require(VIEW, tenant)
    return _present(finding, tenant.external_id)


def _conditions(wanted: FindingFilter) -> list[ColumnElement[bool]]:
    is_open = Finding.status.not_in(ENDED)
    late = and_(is_open, func.coalesce(Finding.due_at < func.now(), False))
    conditions: list[ColumnElement[bool]] = []
    if wanted.status is not None:
        conditions.append(Finding.status == wanted.status)
    if wanted.severity is not None:
        conditions.append(Finding.severity == wanted.severity)
    if wanted.q:
        columns = (Finding.title, Finding.external_ref)
        conditions.append(or_(*(column.icontains(wanted.q, autoescape=True) for column in columns)))
    if wanted.open is not None:
        conditions.append(is_open if wanted.open else ~is_open)
    if wanted.overdue is not None:
        conditions.append(late if wanted.overdue else ~late)
    return conditions


def _present(finding: Finding, external_id: str) -> FindingOut:
    return FindingOut.model_validate({**vars(finding), "tenant_external_id": external_id})
