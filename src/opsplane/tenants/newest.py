"""Rows newest first, a page at a time: of a few tenants among many, or of all of them."""

import uuid
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, Uuid, literal, select, true, tuple_
from sqlalchemy.orm import aliased

from opsplane.tenants.models import Tenant

Row = TypeVar("Row")

LAST = uuid.UUID(int=2**128 - 1)


def of_each(
    model: type[Row], tenants: ColumnElement[bool], *wanted: ColumnElement[bool], before: uuid.UUID | None, limit: int
) -> Select[*tuple[Any, ...]]:
    """The newest rows of those tenants before an id, each with its tenant's external id.

    Told "tenant in (…), newest first", or even "this tenant, newest first", the planner may walk the whole table by
    id until it has met enough rows of a small tenant. So each tenant gives its own newest rows, and they are told as
    a span of the index on (tenant_id, id), which alone has that order.
    """
    columns: Any = model
    newest = (
        select(model)
        .where(
            columns.tenant_id >= Tenant.id,
            tuple_(columns.tenant_id, columns.id) < tuple_(Tenant.id, literal(before or LAST, Uuid())),
            *wanted,
        )
        .order_by(columns.tenant_id.desc(), columns.id.desc())
        .limit(limit)
        .correlate(Tenant)
        .lateral("newest")
    )
    row: Any = aliased(model, newest)
    found = select(row, Tenant.external_id).select_from(Tenant).join(newest, true()).where(tenants)
    return found.order_by(row.id.desc()).limit(limit)


def of_all(
    model: type[Row], *wanted: ColumnElement[bool], before: uuid.UUID | None, limit: int
) -> Select[*tuple[Any, ...]]:
    """The newest rows before an id, each with its tenant's external id if it has a tenant; for who may see most."""
    columns: Any = model
    found = select(model, Tenant.external_id).outerjoin(Tenant, Tenant.id == columns.tenant_id)
    return found.where(columns.id < (before or LAST), *wanted).order_by(columns.id.desc()).limit(limit)
