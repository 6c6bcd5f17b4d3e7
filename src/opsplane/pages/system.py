"""The operators' pages: each asks the JSON endpoint of its address, and shows what that answered."""

import uuid
from typing import Annotated

from fastapi import APIRouter, FastAPI, Query
from fastapi.responses import HTMLResponse

from opsplane.alerts import words
from opsplane.alerts.models import DeliveryStatus
from opsplane.api import alerts, audit, live
from opsplane.api import system as api
from opsplane.api.deps import ThePlane
from opsplane.api.queries import AuditQuery, DeliveryQuery, ItemQuery, RunQuery
from opsplane.api.rights import CanManageAlerts, CanViewAudit, CanViewRunbooks, CanViewRuns
from opsplane.api.schemas import RunPage
from opsplane.auth.capabilities import Capability
from opsplane.pages import alerting, badges, drawing, planes, timeline
from opsplane.pages.login import login
from opsplane.pages.shell import Shell, SystemShell, system_shell
from opsplane.runbooks import registry
from opsplane.runbooks.reasons import MAX_TEXT, ReasonCode
from opsplane.runbooks.service import Source
from opsplane.runs.schemas import RunOut
from opsplane.runs.states import Outcome, Status

pages = APIRouter()


@pages.get("/ops/runbooks")
async def runbooks(who: CanViewRunbooks, plane: ThePlane, shell: SystemShell) -> HTMLResponse:
    """Every runbook as a card, from which it is three clicks to a run."""
    found = await api.list_runbooks(who, plane)
    return shell.page(
        "system/runbooks.html",
        runbooks=found.items,
        may_run={item.id: shell.may(Capability.RUNBOOKS_RUN, item.capability) for item in found.items},
        reasons=list(ReasonCode),
        max_reason=MAX_TEXT,
    )


@pages.get("/ops/runs")
async def runs(
    who: CanViewRuns, plane: ThePlane, shell: SystemShell, query: Annotated[RunQuery, Query()]
) -> HTMLResponse:
    """Runs, newest first; of the last 30 days, unless the address says otherwise."""
    query = query.model_copy(update={"since": query.since or "30d"})
    found = RunPage.model_validate(await api.page_of_runs(who, plane, query))
    choices = {
        "runbook": {runbook.key: runbook.title for runbook in registry.every()},
        "status": list(Status),
        "outcome": list(Outcome),
        "source": list(Source),
    }
    return shell.page("system/runs.html", runs=found.items, next_cursor=found.next_cursor, query=query, choices=choices)


@pages.get("/ops/runs/{run_id}")
async def run(
    run_id: uuid.UUID, who: CanViewRuns, plane: ThePlane, shell: SystemShell, query: Annotated[ItemQuery, Query()]
) -> HTMLResponse:
    """One run, live while it goes on."""
    shown = await api.show_run(run_id, who, plane)
    figures = await live.show_figures(run_id, who, plane)
    items = await api.list_items(run_id, who, plane, query)
    return shell.page(
        "system/run.html",
        live=True,
        run=shown,
        figures=figures,
        grid=drawing.grid(figures.cells, figures.columns),
        line=drawing.line(figures.throughput),
        share=drawing.share(shown),
        items=items.items,
        next_cursor=items.next_cursor,
        query=query,
        shapes=drawing.SHAPES,
        steps=timeline.of(shown),
        may_view_audit=shell.may(Capability.AUDIT_VIEW),
        may_control=shell.may(Capability.RUNBOOKS_RUN),
        may_retry=_may_retry(shell, shown),
        reasons=list(ReasonCode),
        max_reason=MAX_TEXT,
        in_emergency=who.break_glass,
    )


@pages.get("/audit")
async def record(
    who: CanViewAudit, plane: ThePlane, shell: SystemShell, query: Annotated[AuditQuery, Query()]
) -> HTMLResponse:
    """What happened, newest first."""
    found = await audit.list_events(who, plane, query)
    return shell.page("system/audit.html", events=found.items, next_cursor=found.next_cursor, query=query)


@pages.get("/alerts")
async def alerting_page(
    who: CanManageAlerts, plane: ThePlane, shell: SystemShell, query: Annotated[DeliveryQuery, Query()]
) -> HTMLResponse:
    """Who is told what, whether it arrives, and what was sent."""
    shown = await alerts.show_alerts(who, plane, query)
    titles = {runbook.key: runbook.title for runbook in registry.every()}
    names = {one.id: one.name for one in shown.destinations}
    return shell.page(
        "system/alerts.html",
        destinations=shown.destinations,
        rules=[(rule, words.rule(rule, names, titles)) for rule in shown.rules],
        deliveries=shown.deliveries.items,
        next_cursor=shown.deliveries.next_cursor,
        query=query,
        base_url=plane.settings.base_url,
        # What a rule names may be gone; it stays until somebody takes it away.
        runbooks={key: key for rule in shown.rules for key in rule.runbooks} | titles,
        names={str(one): name for one, name in names.items()},
        kinds={kind: badge.label for kind, badge in badges.CATALOGUE["channel"].items()},
        events=alerting.EVENTS,
        severities=alerting.SEVERITIES,
        statuses={status: badges.find("delivery", status).label for status in DeliveryStatus},
    )


def _may_retry(shell: Shell, run: RunOut) -> bool:
    """Whether the person may start the run's runbook; one that is gone can be started by nobody."""
    return registry.known(run.type) and shell.may(Capability.RUNBOOKS_RUN, registry.find(run.type).capability)


def build() -> FastAPI:
    """The pages of the system plane, without its gate."""
    return planes.build(login("system", home="/system/ops/runbooks"), pages, shell=system_shell)
