"""opsplane runbooks: list, show, preflight, start."""

import sys
import uuid
from typing import Annotated

import typer

from opsplane.auth.actors import Actor
from opsplane.cli import context, output, watching
from opsplane.errors import Conflict
from opsplane.runbooks import indexes, registry, service
from opsplane.runbooks.base import RepairRunbook
from opsplane.runbooks.models import Preflight
from opsplane.runbooks.reasons import ReasonCode
from opsplane.runbooks.service import Plane, Source, StartOrder

app = typer.Typer(no_args_is_help=True, help="What can be repaired, and starting it.")

Key = Annotated[str, typer.Argument(metavar="KEY", help="The runbook's key.")]
Tenant = Annotated[str | None, typer.Option(help="Id or external id; default: all tenants.")]


@app.command("list")
def list_(json_: output.AsJson = False) -> None:
    """List every runbook."""

    async def act(_plane: Plane) -> None:
        found = registry.every()
        if json_:
            output.as_json([_facts(runbook.key) for runbook in found])
        else:
            table = [(runbook.key, runbook.title, runbook.description) for runbook in found]
            output.rows(("KEY", "TITLE", "DESCRIPTION"), table, empty="No runbook is registered.")

    context.run(act)


@app.command()
def show(key: Key, json_: output.AsJson = False) -> None:
    """Show one runbook and what starting it takes."""

    async def act(_plane: Plane) -> None:
        known = _facts(key)
        output.as_json(known) if json_ else output.facts(known)

    context.run(act)


@app.command()
def preflight(
    key: Key,
    tenant: Tenant = None,
    exact: Annotated[bool, typer.Option("--exact", help="Count, however long it takes.")] = False,
    as_: context.AsUser = None,
    json_: output.AsJson = False,
) -> None:
    """Count, or estimate, what a run would change; changes nothing."""

    async def act(plane: Plane) -> None:
        by = await context.actor(plane, as_)
        seen = await service.preflight(plane, key, tenant, by=by, source=Source.CLI, exact=exact)
        output.as_json(_seen(seen)) if json_ else output.facts(_seen(seen))
        if seen.impact.estimated:
            output.note("--exact counts instead of estimating.")

    context.run(act)


@app.command()
def start(
    key: Key,
    tenant: Tenant = None,
    confirm: Annotated[str | None, typer.Option(help="The runbook's confirmation phrase.")] = None,
    reason_code: Annotated[str | None, typer.Option(help=", ".join(ReasonCode))] = None,
    reason_text: Annotated[str | None, typer.Option(help="Why, in 1 to 500 characters.")] = None,
    preflight_id: Annotated[uuid.UUID | None, typer.Option("--preflight", help="Start from this preflight.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run even if there is nothing to do.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run until it ends.")] = False,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds to wait.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key gets the same run.")] = None,
    as_: context.AsUser = None,
    json_: output.AsJson = False,
) -> None:
    """Start a run. Without --confirm on a terminal, look and ask first."""

    async def act(plane: Plane) -> int:
        by = await context.actor(plane, as_)
        order = StartOrder(
            runbook=key,
            tenant=tenant,
            source=Source.CLI,
            reason=(reason_code or "", reason_text or "") if reason_code or reason_text else None,
            confirmation=confirm,
            preflight_id=preflight_id,
            force=force,
        )
        if confirm is None and tenant is None and sys.stdin.isatty():
            order = await _asked(plane, order, by=by)
        started = await service.start(plane, order, by=by, idempotency_key=idempotency_key)
        return await watching.started(plane, started.run, wait=wait, timeout_s=timeout, json_=json_)

    raise typer.Exit(context.run(act))


async def _asked(plane: Plane, order: StartOrder, *, by: Actor) -> StartOrder:
    """What a dialog would ask: the blast radius first, then phrase and reason."""
    runbook = registry.find(order.runbook)
    seen = await service.preflight(plane, order.runbook, order.tenant, by=by, source=Source.CLI)
    if seen.affected_count == 0 and not order.force:
        raise service.NothingToDo
    output.note(f"{seen.impact.said} This modifies customer data.")
    with context.prompting():
        typed = typer.prompt(f"Type {runbook.confirmation_phrase} to run {runbook.title} on all tenants", err=True)
        reason = order.reason or (
            typer.prompt(f"Reason code ({', '.join(ReasonCode)})", err=True),
            typer.prompt("Reason", err=True),
        )
    return StartOrder(
        runbook=order.runbook,
        tenant=None,
        source=Source.CLI,
        reason=reason,
        confirmation=typed,
        preflight_id=order.preflight_id or seen.id,
        force=order.force,
    )


@app.command()
def index(key: Key) -> None:
    """Print the statement for the index that makes the runbook's preflights quick; creates nothing."""

    async def act(_plane: Plane) -> None:
        runbook = registry.find(key)
        offered = runbook.index() if isinstance(runbook, RepairRunbook) else None
        if offered is None:
            raise Conflict(f"{key} offers no index.")
        assert isinstance(runbook, RepairRunbook)
        output.note(f"While it is there, {indexes.cost(offered)}")
        output.out.print(output.data(f"{indexes.create(offered, runbook.rows())};"))

    context.run(act)


def _facts(key: str) -> dict[str, object]:
    runbook = registry.find(key)
    return {
        "key": runbook.key,
        "title": runbook.title,
        "description": runbook.description,
        "version": runbook.version,
        "capability": str(runbook.capability),
        "confirmation_phrase": runbook.confirmation_phrase,
        "on_deploy": runbook.on_deploy,
    }


def _seen(seen: Preflight) -> dict[str, object]:
    return {
        "preflight_id": str(seen.id),
        "affected_count": seen.affected_count,
        "total_count": seen.total_count,
        "estimated_tenants": seen.estimated_tenants,
        "estimated": seen.impact.estimated,
        "margin_percent": seen.margin_percent,
        "total_estimated": seen.total_estimated,
        "said": seen.impact.said,
        "can_start": seen.affected_count > 0,
        "expires_at": seen.expires_at.isoformat(),
    }
