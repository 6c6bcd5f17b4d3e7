"""The customers' pages: what members see of their tenants; nothing here changes or starts anything."""

import uuid
from typing import Annotated

from fastapi import APIRouter, FastAPI, Query
from fastapi.responses import HTMLResponse

from opsplane.api import admin as api
from opsplane.api.deps import ThePlane
from opsplane.api.queries import FindingQuery, OperationQuery
from opsplane.api.rights import CanViewFindings, CanViewOperations
from opsplane.findings.models import FindingStatus, Severity
from opsplane.pages import planes
from opsplane.pages.login import login
from opsplane.pages.shell import AdminShell, admin_shell
from opsplane.runs import types
from opsplane.runs.states import Outcome, Status

pages = APIRouter()


@pages.get("/findings")
async def findings(
    who: CanViewFindings, plane: ThePlane, shell: AdminShell, query: Annotated[FindingQuery, Query()]
) -> HTMLResponse:
    """Findings, newest first."""
    found = await api.list_findings(who, plane, query)
    choices = {"status": list(FindingStatus), "severity": list(Severity)}
    return shell.page(
        "admin/findings.html",
        findings=found.items,
        next_cursor=found.next_cursor,
        query=query,
        choices=choices,
        links=(found.model_extra or {}).get("maintenance_actions", []),
    )


@pages.get("/findings/{finding_id}")
async def finding(finding_id: uuid.UUID, who: CanViewFindings, plane: ThePlane, shell: AdminShell) -> HTMLResponse:
    """One finding."""
    return shell.page("admin/finding.html", finding=await api.show_finding(finding_id, who, plane))


@pages.get("/operations")
async def operations(
    who: CanViewOperations, plane: ThePlane, shell: AdminShell, query: Annotated[OperationQuery, Query()]
) -> HTMLResponse:
    """Operations, newest first."""
    found = await api.list_operations(who, plane, query)
    choices = {
        "type": {one.key: one.label for one in types.every()},
        "status": list(Status),
        "outcome": list(Outcome),
    }
    return shell.page(
        "admin/operations.html", operations=found.items, next_cursor=found.next_cursor, query=query, choices=choices
    )


@pages.get("/operations/{operation_id}")
async def operation(
    operation_id: uuid.UUID, who: CanViewOperations, plane: ThePlane, shell: AdminShell
) -> HTMLResponse:
    """One operation."""
    return shell.page("admin/operation.html", operation=await api.show_operation(operation_id, who, plane))


def build() -> FastAPI:
    """The pages of the admin plane, without its gate."""
    return planes.build(login("admin", home="/admin/findings"), pages, shell=admin_shell)
