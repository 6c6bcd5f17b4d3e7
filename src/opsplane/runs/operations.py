"""What a tenant's members see of operation runs: those of the admin plane, and nothing of any other."""

import uuid
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.auth import members
from opsplane.auth.members import Member, NothingHere
from opsplane.auth.roles import TenantCapability
from opsplane.runs import summary, types
from opsplane.runs.models import OperationRun, OperationRunFailure
from opsplane.runs.states import Outcome, Status
from opsplane.tenants import newest
from opsplane.tenants.models import Tenant

PLANE = "admin"
VIEW = TenantCapability.OPERATIONS_VIEW


class FailuresOut(BaseModel):
    """How much failed, and the codes of it."""

    count: int
    codes: list[str]


class OperationOut(BaseModel):
    """An operation; without a tenant it spans all of them."""

    id: uuid.UUID
    type: str
    type_label: str
    status: Status
    outcome: Outcome
    tenant_id: uuid.UUID | None
    tenant_external_id: str | None
    summary_counts: dict[str, int]
    failures: FailuresOut
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    view_url: str


class OperationFilter(BaseModel):
    """Which operations; what is not given does not narrow."""

    tenant: Annotated[str | None, Field(max_length=200, description="Id or external id.")] = None
    type: Annotated[str | None, Field(max_length=200)] = None
    status: Status | None = None
    outcome: Outcome | None = None


async def page(
    session: AsyncSession,
    who: Member,
    wanted: OperationFilter,
    *,
    before: uuid.UUID | None,
    limit: int,
    base_url: str,
) -> list[OperationOut]:
    """Operations the member may see, newest first; types for which their role is too weak are left out.

    Raises:
        NothingHere: they are no member of the tenant asked for (404).
        RoleTooWeak: they may see no operation of it at all (403).
    """
    conditions = [OperationRun.plane == PLANE, _visible(who), *_conditions(wanted)]
    if wanted.tenant is not None:
        tenant = await members.pick(session, who, wanted.tenant, VIEW)
        runs = newest.of_each(OperationRun, Tenant.id == tenant.id, *conditions, before=before, limit=limit)
    elif who.workspaces_with(VIEW):
        runs = newest.of_all(OperationRun, *conditions, before=before, limit=limit)
    else:
        runs = newest.of_each(OperationRun, who.tenants_with(VIEW), *conditions, before=before, limit=limit)
    return await _presented(session, (await session.execute(runs)).all(), base_url=base_url)


async def show(session: AsyncSession, who: Member, run_id: uuid.UUID, *, base_url: str) -> OperationOut:
    """One operation.

    Raises:
        NothingHere: there is none in the admin plane, or the member is none of its tenant (404).
        RoleTooWeak: 403.
    """
    found = (
        select(OperationRun, Tenant)
        .outerjoin(Tenant, Tenant.id == OperationRun.tenant_id)
        .where(OperationRun.id == run_id, OperationRun.plane == PLANE)
    )
    row = (await session.execute(found)).one_or_none()
    if row is None:
        raise NothingHere
    run, tenant = row
    role = who.role_in(tenant) if tenant else who.workspace_roles.get(run.workspace_id)
    members.require(role, VIEW, types.find(run.type).capability)
    [shown] = await _presented(session, [(run, tenant and tenant.external_id)], base_url=base_url)
    return shown


def _conditions(wanted: OperationFilter) -> list[ColumnElement[bool]]:
    filters = {
        OperationRun.type: wanted.type,
        OperationRun.status: wanted.status,
        OperationRun.outcome: wanted.outcome,
    }
    return [column == value for column, value in filters.items() if value is not None]


def _visible(who: Member) -> ColumnElement[bool]:
    """Runs whose type the member may see in the run's own tenant; `types.find` says the same for one run."""
    keys = defaultdict(list)
    for operation in types.every():
        keys[operation.capability].append(operation.key)
    known = [key for some in keys.values() for key in some]
    return or_(
        *(and_(OperationRun.type.in_(some), _where(who, capability)) for capability, some in keys.items()),
        and_(OperationRun.type.not_in(known), _where(who, types.UNKNOWN_NEEDS)),
    )


def _where(who: Member, capability: TenantCapability) -> ColumnElement[bool]:
    all_tenants = and_(
        OperationRun.tenant_id.is_(None), OperationRun.workspace_id.in_(who.workspaces_with(VIEW, capability))
    )
    return or_(who.tenants_with(VIEW, capability), all_tenants)


async def _presented(session: AsyncSession, rows: Sequence[Any], *, base_url: str) -> list[OperationOut]:
    failures = await _failures(session, [run.id for run, _ in rows])
    return [
        OperationOut(
            id=run.id,
            type=run.type,
            type_label=types.find(run.type).label,
            status=Status(run.status),
            outcome=Outcome(run.outcome),
            tenant_id=run.tenant_id,
            tenant_external_id=external_id,
            summary_counts=await summary.current(session, run),
            failures=failures.get(run.id) or _whole(run),
            created_at=run.created_at,
            started_at=run.started_at,
            completed_at=run.completed_at,
            view_url=f"{base_url}/admin/operations/{run.id}",
        )
        for run, external_id in rows
    ]


async def _failures(session: AsyncSession, run_ids: list[uuid.UUID]) -> dict[uuid.UUID, FailuresOut]:
    code = OperationRunFailure.code
    rows = await session.execute(
        select(OperationRunFailure.run_id, func.count(), func.array_agg(code.distinct()))
        .where(OperationRunFailure.run_id.in_(run_ids))
        .group_by(OperationRunFailure.run_id)
    )
    return {run_id: FailuresOut(count=count, codes=list(codes)) for run_id, count, codes in rows}


def _whole(run: OperationRun) -> FailuresOut:
    """The failure of a run as a whole, if it has one and no item has."""
    codes = [run.failure_code] if run.failure_code else []
    return FailuresOut(count=len(codes), codes=codes)
