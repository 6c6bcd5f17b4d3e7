"""opsplane runs: list, show, watch, pause, resume, cancel, retry-failed."""

import uuid
from typing import Annotated

import typer

from opsplane.cli import context, looks, output, sheets, watching
from opsplane.runbooks import control
from opsplane.runbooks.reasons import ReasonCode
from opsplane.runbooks.service import Plane, Source
from opsplane.runs import views, words
from opsplane.runs.control import Ask
from opsplane.runs.schemas import RunOut
from opsplane.runs.states import Outcome, Status
from opsplane.runs.views import Wanted
from opsplane.tenants import universe

app = typer.Typer(no_args_is_help=True, help="What is running and what has run.")

NO_MATCH = "No run matches; leave out an option to see more."
NONE_YET = "No run yet; start one: opsplane runbooks start KEY"

Wait = Annotated[bool, typer.Option("--wait", help="Return when it is done, not when it is asked.")]
Timeout = Annotated[float | None, typer.Option(min=0, help="Seconds to wait.")]
RunId = Annotated[uuid.UUID, typer.Argument(metavar="RUN", help="The run's id.")]


@app.command("list")
def list_(
    runbook: Annotated[str | None, typer.Option(help="Only of this runbook.")] = None,
    status: Annotated[Status | None, typer.Option(help="Only with this status.")] = None,
    outcome: Annotated[Outcome | None, typer.Option(help="Only with this outcome.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only of this tenant's own runs.")] = None,
    source: Annotated[Source | None, typer.Option(help="Only from this door.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    json_: output.AsJson = False,
) -> None:
    """List runs, newest first."""

    async def act(plane: Plane) -> None:
        async with plane.db.reading() as session:
            tenant_id = None
            if tenant is not None:
                tenant_id = (await universe.pick(session, await universe.workspace_id(session), tenant)).id
        wanted = Wanted(runbook=runbook, status=status, outcome=outcome, tenant_id=tenant_id, source=source)
        page = await views.page(plane.db, wanted, limit=limit, base_url=plane.settings.base_url)
        found = [RunOut.model_validate(one) for one in page]
        if json_:
            output.as_json(found)
        else:
            table = [_row(run) for run in found]
            output.rows(
                ("RUN", "RUNBOOK", "SCOPE", "STATUS", "OUTCOME", "UPDATED", "MADE", "TOOK", "SOURCE"),
                table,
                empty=NO_MATCH if any((runbook, status, outcome, tenant, source)) else NONE_YET,
            )

    context.run(act)


@app.command()
def show(run_id: RunId, json_: output.AsJson = False) -> None:
    """Show one run with its failures."""

    async def act(plane: Plane) -> None:
        async with plane.db.reading() as session:
            shown = await views.show(session, run_id, base_url=plane.settings.base_url)
        sheets.whole(shown, json_=json_)

    context.run(act)


@app.command()
def watch(
    run_id: RunId,
    timeout: Timeout = None,
    json_: output.AsJson = False,
) -> None:
    """Follow a run with rate and time left until it ends; Ctrl-C leaves the run alone."""

    async def act(plane: Plane) -> int:
        return await watching.follow(plane, run_id, timeout_s=timeout, json_=json_)

    raise typer.Exit(context.run(act))


def _holds_up(what: Ask, help_: str) -> None:
    """Add the command that asks this of a run; workers end their chunks first, for which it can wait."""

    @app.command(what, help=help_)
    def hold_up(
        run_id: RunId,
        as_: context.AsUser = None,
        wait: Wait = False,
        timeout: Timeout = None,
        json_: output.AsJson = False,
    ) -> None:
        _ask(run_id, what, as_, wait=wait, timeout_s=timeout, json_=json_)


_holds_up(Ask.PAUSE, "Ask a run to pause after the chunks in hand; its scope stays locked.")


@app.command()
def resume(run_id: RunId, as_: context.AsUser = None, json_: output.AsJson = False) -> None:
    """Let a paused run go on."""
    _ask(run_id, Ask.RESUME, as_, wait=False, timeout_s=None, json_=json_)


_holds_up(Ask.CANCEL, "Ask a run to end after the chunks in hand; what is repaired stays repaired.")


@app.command()
def retry_failed(
    run_id: RunId,
    reason_code: Annotated[str | None, typer.Option(help=f"{', '.join(ReasonCode)}; else the old run's.")] = None,
    reason_text: Annotated[str | None, typer.Option(help="Why, in 1 to 500 characters.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run even if nothing is wrong any more.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the new run until it ends.")] = False,
    timeout: Timeout = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key gets the same run.")] = None,
    as_: context.AsUser = None,
    json_: output.AsJson = False,
) -> None:
    """Start a run over the tenants that failed in this one."""

    async def act(plane: Plane) -> int:
        started = await control.retry_failed(
            plane, run_id, by=await context.actor(plane, as_), source=Source.CLI, force=force,
            reason=(reason_code or "", reason_text or "") if reason_code or reason_text else None,
            idempotency_key=idempotency_key,
        )  # fmt: skip
        return await watching.started(plane, started.run, wait=wait, timeout_s=timeout, json_=json_)

    raise typer.Exit(context.run(act))


def _ask(run_id: uuid.UUID, what: Ask, as_: str | None, *, wait: bool, timeout_s: float | None, json_: bool) -> None:
    async def act(plane: Plane) -> int:
        shown = await control.ask(plane, run_id, what, by=await context.actor(plane, as_))
        if wait:
            shown = await watching.until_settled(plane, shown, timeout_s=timeout_s)
        sheets.whole(shown, json_=json_)
        return context.TIMED_OUT if wait and shown.status in {Status.PAUSING, Status.CANCELLING} else 0

    raise typer.Exit(context.run(act))


def _row(run: RunOut) -> tuple[object, ...]:
    return (
        run.id,
        run.type,
        sheets.scope(run),
        looks.label("status", run.status),
        looks.label("outcome", run.outcome),
        f"{run.context.updated_count:,}",
        words.moment(run.created_at),
        words.duration(run.context.duration_ms),
        run.source.replace("_", " "),
    )
