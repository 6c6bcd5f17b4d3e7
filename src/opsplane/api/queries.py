"""Queries of the lists: what a page form leaves empty does not narrow, and what no list knows is refused."""

import re
import uuid
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from opsplane.alerts.models import DeliveryStatus
from opsplane.audit import views as audit_views
from opsplane.findings.views import FindingFilter
from opsplane.runbooks.service import Source
from opsplane.runs.operations import OperationFilter
from opsplane.runs.states import ItemState, Outcome, Status

DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d([Tt ]|$)")
AGO = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7), "30d": timedelta(days=30)}
ANY_TIME = "all"

Text = Annotated[str | None, Field(max_length=200)]
TenantId = Annotated[str | None, Field(max_length=200, description="Id or external id.")]


class Listed(BaseModel):
    """Where a page of a list begins and how long it is."""

    model_config = ConfigDict(extra="forbid")

    cursor: Annotated[str | None, Field(max_length=500, description="`next_cursor` of the page before.")] = None
    limit: Annotated[int, Field(ge=1, le=200, description="Rows in this page.")] = 50

    @model_validator(mode="before")
    @classmethod
    def _without_blanks(cls, given: Any) -> Any:
        # A form sends every field it has, also those that nobody filled in.
        return {name: value for name, value in given.items() if value != ""} if isinstance(given, dict) else given

    def filters(self) -> dict[str, Any]:
        """What narrows the list, as it stands in the address."""
        given = self.model_dump(mode="json", exclude={"cursor", "limit"}, exclude_none=True)
        return {name: str(value).lower() if isinstance(value, bool) else value for name, value in given.items()}


def _written_out(given: str) -> str:
    # pydantic takes numbers too, as seconds or milliseconds, whichever they look like
    if DATE_TIME.match(given) is None:
        raise ValueError("write a date such as 2026-11-21, or a date and time such as 2026-11-21T08:00:00Z")
    return f"{given}T00:00:00Z" if len(given) == len("2026-11-21") else given


Moment = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(audit_views.moment)]


class TenantQuery(Listed):
    """Which tenants."""

    q: Annotated[str | None, Field(max_length=200, description="Part of a name or external id.")] = None


class RunQuery(Listed):
    """Which runs."""

    runbook: Text = None
    status: Status | None = None
    outcome: Outcome | None = None
    tenant: TenantId = None
    source: Source | None = None
    since: Annotated[
        str | None, Field(pattern=f"^({'|'.join(AGO)}|{ANY_TIME})$", description="Made within this time.")
    ] = None


class ItemQuery(Listed):
    """Which of a run's items."""

    state: ItemState | None = None


class AuditQuery(Listed):
    """Which events of the record."""

    action: Annotated[str | None, Field(max_length=200, description="Or a prefix, if it ends in a dot.")] = None
    actor: Annotated[str | None, Field(max_length=200, description="Part of a name.")] = None
    subject_type: Text = None
    subject_id: Text = None
    tenant_id: uuid.UUID | None = None
    since: Moment | None = None
    until: Moment | None = None
    break_glass: bool | None = None


class DeliveryQuery(Listed):
    """Which deliveries of alerts."""

    status: DeliveryStatus | None = None
    destination_id: uuid.UUID | None = None


class FindingQuery(FindingFilter, Listed):
    """Which findings."""


class OperationQuery(OperationFilter, Listed):
    """Which operations."""


def since(ago: str | None) -> timedelta | None:
    """How long ago the first run of a list may have been made."""
    return AGO.get(ago or ANY_TIME)
