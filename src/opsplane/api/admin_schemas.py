"""Queries and pages of the admin API."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from opsplane.findings.views import FindingFilter, FindingOut
from opsplane.runs.operations import OperationFilter, OperationOut


class Page(BaseModel):
    """Where a page begins and how long it is."""

    cursor: Annotated[str | None, Field(max_length=500, description="`next_cursor` of the page before.")] = None
    limit: Annotated[int, Field(ge=1, le=200, description="Rows in this page.")] = 50


class FindingQuery(FindingFilter, Page):
    """A page of the findings that match."""


class OperationQuery(OperationFilter, Page):
    """A page of the operations that match."""


class FindingPage(BaseModel):
    """A page of findings, newest first."""

    model_config = ConfigDict(extra="allow")  # what is only there for developers is in no contract

    items: list[FindingOut]
    next_cursor: str | None


class OperationPage(BaseModel):
    """A page of operations, newest first."""

    items: list[OperationOut]
    next_cursor: str | None
