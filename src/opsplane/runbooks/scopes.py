"""Scopes: which tenants a runbook looks at and repairs."""

import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from sqlalchemy import ColumnElement, Function, Select, Uuid, func, literal

from opsplane.db import Database
from opsplane.tenants import universe
from opsplane.tenants.models import Tenant


class ScopeKind(StrEnum):
    """All tenants is the default."""

    ALL_TENANTS = "all_tenants"
    SINGLE_TENANT = "single_tenant"


def span(bound: ColumnElement[Any]) -> Function[str]:
    """The `uuidrange` of one tenant, or for null of all of them."""
    return func.uuidrange(bound, bound, "[]")


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
    async def resolve(cls, db: Database, tenant: str | None) -> Self:
        """The scope of one tenant, by id or external id, or of all of them for None.

        Raises:
            TenantNotAllowed: 422.
        """
        workspace_id, tenant_id, external_id = await universe.look(db, tenant)
        return cls(
            workspace_id=workspace_id,
            kind=ScopeKind.ALL_TENANTS if tenant is None else ScopeKind.SINGLE_TENANT,
            tenant_id=tenant_id,
            tenant_external_id=external_id,
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
        return span(literal(self.tenant_id, Uuid()))

    @property
    def label(self) -> str:
        """How people call it."""
        return "all tenants" if self.tenant_id is None else f"tenant {self.tenant_external_id}"
