"""The newest rows of a few tenants among many, by each one's own index."""

from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, select, true
from sqlalchemy.orm import aliased

from opsplane.tenants.models import Tenant

Row = TypeVar("Row")


def of_each(
    model: type[Row], tenants: ColumnElement[bool], *wanted: ColumnElement[bool], limit: int
) -> Select[Row, str]:
    """At most `limit` rows of those tenants, newest first, each with its tenant's external id.

    Told only "tenant in (…), newest first", the planner may walk the whole table by id until it has met enough rows
    of a small tenant. So each tenant gives its own newest rows, by an index on (tenant_id, id).
    """
    columns: Any = model
    newest = (
        select(model)
        .where(columns.tenant_id == Tenant.id, *wanted)
        .order_by(columns.id.desc())
        .limit(limit)
        .correlate(Tenant)
        .lateral("newest")
    )
    row: Any = aliased(model, newest)
    return (
        select(row, Tenant.external_id)
        .select_from(Tenant)
        .join(newest, true())
        .where(tenants)
        .order_by(row.id.desc())
        .limit(limit)
    )
