"""Pages of the admin API."""

from pydantic import BaseModel, ConfigDict

from opsplane.findings.views import FindingOut
from opsplane.runs.operations import OperationOut


class FindingPage(BaseModel):
    """A page of findings, newest first."""

    model_config = ConfigDict(extra="allow")  # what is only there for developers is in no contract

    items: list[FindingOut]
    next_cursor: str | None


class OperationPage(BaseModel):
    """A page of operations, newest first."""

    items: list[OperationOut]
    next_cursor: str | None
