"""opsplane demo: the main job, end to end, on real servers."""

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from opsplane import demo as demonstration
from opsplane import logs, migrate, runtime, serving
from opsplane.auth.actors import Actor
from opsplane.cli import context, output, watching
from opsplane.config import Environment, Settings
from opsplane.errors import ConfigurationError
from opsplane.findings import importer
from opsplane.runbooks import registry, service
from opsplane.runbooks.service import Plane, Source, StartOrder
from opsplane.runs.views import RunOut

RUNBOOK = "findings.lifecycle.backfill"
WORKERS = 2


def demo(
    tenants: Annotated[int, typer.Option(min=1, max=100_000, help="Tenants to make.")] = 250,
    findings: Annotated[int, typer.Option(min=1, max=10_000_000, help="Historic findings to make.")] = 120_000,
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Go on serving afterwards.")] = True,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
) -> None:
    """Make tenants with wrong findings, repair them, prove that a second run changes nothing, then serve."""
    with context.errors():
        configured = context.load()
        if configured.env is Environment.PRODUCTION:
            raise ConfigurationError("The demo makes and repairs data of its own; it does not run in production.")
        output.note("Starting PostgreSQL and Valkey …")
        with runtime.servers(configured) as settings:
            logs.configure(settings)
            asyncio.run(migrate.upgrade(settings))
            with serving.worker_processes(settings, WORKERS):
                proven = asyncio.run(_show(settings, tenants=tenants, findings=findings))
                if not proven:
                    raise typer.Exit(context.FAILED)
                if serve:
                    _serve(settings, host=host, port=port)


async def _show(settings: Settings, *, tenants: int, findings: int) -> bool:
    async with runtime.opened(settings, application="opsplane-demo") as plane:
        await demonstration.refuse_foreign(plane)
        made = await demonstration.make(plane, tenants=tenants, findings=findings)
        output.note(f"Made {made.findings:,} findings of {made.tenants:,} tenants, most without lifecycle data.")
        await _import(plane)
        by = Actor.shell(runtime.os_user())
        seen = await service.preflight(plane, RUNBOOK, None, by=by, source=Source.CLI)
        counted = await demonstration.count_wrong(_plain(settings))
        output.note(
            f"Preflight: {seen.affected_count:,} of {seen.total_count:,} findings are wrong, "
            f"in {seen.estimated_tenants:,} tenants. Plain SQL counts {counted:,}."
        )
        first = await _run(plane, "The demo's backfill", by=by, force=False)
        output.run(first, json_=False)
        second = await _run(plane, "Once more, to prove that nothing is done twice", by=by, force=True)
        left = await demonstration.count_wrong(_plain(settings))
        return _judge(seen.affected_count, counted, first, second, left)


async def _import(plane: Plane) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "ruff.sarif"
        if not await asyncio.to_thread(demonstration.scan, report):
            output.note("ruff is not installed, so no scanner's report is imported (pip install ruff).")
            return
        by = Actor.shell(runtime.os_user())
        done = await importer.import_sarif(plane.db, report, "demo-0001", by=by)
    output.note(f"Imported {done.results:,} results of a real ruff report over installed packages (SARIF 2.1.0).")


async def _run(plane: Plane, why: str, *, by: Actor, force: bool) -> RunOut:
    order = StartOrder(
        runbook=RUNBOOK,
        tenant=None,
        source=Source.CLI,
        reason=("DATA_REPAIR", why),
        confirmation=registry.find(RUNBOOK).confirmation_phrase,
        force=force,
    )
    started = await service.start(plane, order, by=by)
    done = await watching.until_done(plane, started.run.id, timeout_s=None)
    assert done is not None
    return done


def _judge(affected: int, counted: int, first: RunOut, second: RunOut, left: int) -> bool:
    """Say whether every number agrees."""
    updated, again = first.context.updated_count, second.context.updated_count
    output.note(f"First run: {updated:,} updated. Second run: {again:,} updated. Wrong by plain SQL now: {left:,}.")
    proven = affected == counted == updated and again == left == 0 and first.outcome == "succeeded"
    output.note("Every number agrees." if proven else "The numbers do not agree; this is a defect, please report it.")
    return proven


def _serve(settings: Settings, *, host: str, port: int) -> None:
    async def operator() -> demonstration.Access:
        async with runtime.opened(settings) as plane:
            return await demonstration.operator_access(plane)

    url, access = f"http://{host}:{port}", asyncio.run(operator())
    output.note(
        f"\nopsplane serves {url}/system/login now (Ctrl-C ends it). Sign in as {demonstration.OPERATOR} with the\n"
        f"password {access.password}, or try the API:\n"
        f"  curl -H 'Authorization: Bearer {access.token}' {url}/system/ops/runs"
    )
    serving.serve(settings, host=host, port=port)


def _plain(settings: Settings) -> str:
    assert settings.database_url is not None
    return settings.database_url
