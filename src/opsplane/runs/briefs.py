"""Runs in brief, as the list of runbooks shows them: the newest of each type, and those that hold a scope now."""

import uuid
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field
from sqlalchemy import ARRAY, Row, Select, Text, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.runbooks import registry
from opsplane.runbooks.scopes import ScopeKind
from opsplane.runs import views
from opsplane.runs.models import OperationRun
from opsplane.runs.schemas import ScopeOut
from opsplane.runs.states import Outcome, Status
from opsplane.tenants.models import Tenant

MAX_ACTIVE = 200


class RunBrief(BaseModel):
    """A run in one line."""

    id: uuid.UUID
    type: str
    lock_group: Annotated[str, Field(exclude=True)]
    status: Status
    outcome: Outcome
    scope: ScopeOut
    created_at: datetime
    view_url: str


async def last_runs(session: AsyncSession, *, base_url: str) -> dict[str, RunBrief]:
    """The newest run of every known runbook that ever ran."""
    keys = (
        func.unnest(cast([runbook.key for runbook in registry.every()], ARRAY(Text())))
        .table_valued("key")
        .render_derived("keys")
    )
    # Each by a look into the index: "the newest of each type" would read all there are.
    newest = (
        select(OperationRun.id)
        .where(OperationRun.type == keys.c.key)
        .order_by(OperationRun.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    found = _runs().where(OperationRun.id.in_(select(newest).select_from(keys)))
    return {run.type: run for run in [_present(row, base_url) for row in await session.execute(found)]}


async def active_runs(session: AsyncSession, *, base_url: str) -> list[RunBrief]:
    """The newest runs that are not completed, and so keep others off their scopes."""
    active = _runs().where(OperationRun.status != Status.COMPLETED).order_by(OperationRun.id.desc()).limit(MAX_ACTIVE)
    return [_present(row, base_url) for row in await session.execute(active)]


def _runs() -> Select[OperationRun, str]:
    return select(OperationRun, Tenant.external_id).outerjoin(Tenant, Tenant.id == OperationRun.tenant_id)


def _present(row: Row[*tuple[Any, ...]], base_url: str) -> RunBrief:
    run, external_id = row
    return RunBrief(
        id=run.id,
        type=run.type,
        lock_group=run.lock_group,
        status=Status(run.status),
        outcome=Outcome(run.outcome),
        scope=ScopeOut(kind=ScopeKind(run.scope_kind), tenant_id=run.tenant_id, tenant_external_id=external_id),
        created_at=run.created_at,
        view_url=views.view_url(base_url, run.id),
    )
