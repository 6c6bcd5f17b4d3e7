"""Scopes: which tenants a runbook looks at and repairs."""

import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from sqlalchemy import Function, Select, Uuid, func, literal
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.tenants import universe
from opsplane.tenants.models import Tenant


class ScopeKind(StrEnum):
    """All tenants is the default."""

    ALL_TENANTS = "all_tenants"
    SINGLE_TENANT = "single_tenant"


@dataclass(frozen=True, kw_only=True)
class Scope:
    """A scope whose tenant, if any, has been found in the allowed tenant universe.

    The scope of a retry is locked as a whole, but only `among` these tenants is anything looked at.
    """

    workspace_id: uuid.UUID
    kind: ScopeKind
    tenant_id: uuid.UUID | None = None
    tenant_external_id: str | None = None
    retry_of: uuid.UUID | None = None
    among: Select[uuid.UUID | None] | None = None

    @classmethod
    async def resolve(cls, session: AsyncSession, tenant: str | None) -> Self:
        """The scope of one tenant, by id or external id, or of all of them for None.

        Raises:
            TenantNotAllowed: 422.
        """
        workspace_id = await universe.workspace_id(session)
        if tenant is None:
            return cls(workspace_id=workspace_id, kind=ScopeKind.ALL_TENANTS)
        found = await universe.pick(session, workspace_id, tenant)
        return cls(
            workspace_id=workspace_id,
            kind=ScopeKind.SINGLE_TENANT,
            tenant_id=found.id,
            tenant_external_id=found.external_id,
        )

    def tenant_ids(self) -> Select[uuid.UUID]:
        """The ids of the tenants in scope, as a subquery: `column.in_(scope.tenant_ids())`."""
        ids = universe.allowed(self.workspace_id).with_only_columns(Tenant.id)
        if self.among is not None:
            ids = ids.where(Tenant.id.in_(self.among))
        return ids if self.tenant_id is None else ids.where(Tenant.id == self.tenant_id)

    @property
    def span(self) -> Function[str]:
        """The scope as a `uuidrange`, without bounds for all tenants: two scopes overlap exactly if their spans do."""
        bound = literal(self.tenant_id, Uuid())
        return func.uuidrange(bound, bound, "[]")

    @property
    def label(self) -> str:
        """How people call it."""
        return "all tenants" if self.tenant_id is None else f"tenant {self.tenant_external_id}"
