"""opsplane demo: the main job, end to end, on real servers."""

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from opsplane import demo as demonstration
from opsplane import fleet, logs, migrate, runtime, serving
from opsplane.auth.actors import Actor
from opsplane.cli import context, output, proof, watching
from opsplane.cli.proof import Proof
from opsplane.config import Environment, Settings
from opsplane.errors import ConfigurationError
from opsplane.findings import importer
from opsplane.fleet import Fleet
from opsplane.runbooks import registry, service
from opsplane.runbooks.service import Plane, Source, StartOrder
from opsplane.runs.schemas import RunOut

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
        if serve:
            serving.refuse_taken(host, port)
        proof.step(1, "Start PostgreSQL and Valkey", "Real servers, because only they show what locks and crashes do.")
        with runtime.servers(configured) as settings:
            logs.configure(settings)
            linked = serving.linked(settings, host, port)
            asyncio.run(migrate.upgrade(linked))
            with fleet.of_workers(linked, WORKERS) as workers:
                proven = asyncio.run(_show(linked, workers, tenants=tenants, findings=findings))
                if not proof.judge(proven):
                    raise typer.Exit(context.FAILED)
                if serve:
                    _serve(linked, proven.first, host=host, port=port)


async def _show(settings: Settings, workers: Fleet, *, tenants: int, findings: int) -> Proof:
    async with runtime.opened(settings, application="opsplane-demo") as plane:
        await _make(plane, tenants=tenants, findings=findings)
        by = Actor.shell(runtime.os_user())
        proof.step(3, "Preflight", "Count what a run would change, and change nothing; plain SQL has to agree.")
        seen = await service.preflight(plane, RUNBOOK, None, by=by, source=Source.CLI)
        before = await demonstration.count_wrong(_plain(settings))
        output.note(
            f"{seen.affected_count:,} of {seen.total_count:,} findings are wrong, "
            f"in {seen.estimated_tenants:,} tenants. Plain SQL counts {before:,}."
        )
        proof.step(4, "Repair all tenants", "One run, tenant by tenant, in chunks, by two worker processes.")
        first = await _run(plane, workers, "The demo's backfill", by=by, force=False)
        proof.step(5, "Run it once more", "What is right is left alone, so a second run changes nothing.")
        second = await _run(plane, workers, "Once more, to prove that nothing is done twice", by=by, force=True)
        proof.step(6, "Compare", "The runs say what they did; plain SQL, which knows nothing of them, says what is.")
        after = await demonstration.count_wrong(_plain(settings))
        return Proof(before=before, preflight=seen.affected_count, first=first, second=second, after=after)


async def _make(plane: Plane, *, tenants: int, findings: int) -> None:
    proof.step(2, "Make tenants with wrong findings", "From before findings had a lifecycle; a few tenants have most.")
    await demonstration.refuse_foreign(plane)
    made = await demonstration.make(plane, tenants=tenants, findings=findings)
    output.note(f"Made {made.findings:,} findings of {made.tenants:,} tenants, most without lifecycle data.")
    await _import(plane)


async def _import(plane: Plane) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "ruff.sarif"
        if not await asyncio.to_thread(demonstration.scan, report):
            output.note("ruff is not installed, so no scanner's report is imported (pip install ruff).")
            return
        by = Actor.shell(runtime.os_user())
        done = await importer.import_sarif(plane.db, report, "demo-0001", by=by)
    output.note(f"Imported {done.results:,} results of a real ruff report over installed packages (SARIF 2.1.0).")


async def _run(plane: Plane, workers: Fleet, why: str, *, by: Actor, force: bool) -> RunOut:
    order = StartOrder(
        runbook=RUNBOOK,
        tenant=None,
        source=Source.CLI,
        reason=("DATA_REPAIR", why),
        confirmation=registry.find(RUNBOOK).confirmation_phrase,
        force=force,
    )
    started = await service.start(plane, order, by=by)
    return await watching.until_done(plane, started.run.id, timeout_s=None, check=workers.require_alive)


def _serve(settings: Settings, seen: RunOut, *, host: str, port: int) -> None:
    async def prepare() -> tuple[demonstration.Access, int]:
        async with runtime.opened(settings) as plane:
            await demonstration.leave_something(plane)
            return await demonstration.operator_access(plane), await demonstration.count_wrong(_plain(settings))

    access, wrong = asyncio.run(prepare())
    proof.door(settings.base_url, access, seen)
    output.note(f"Something to try: {wrong:,} findings of a few tenants are wrong again. Preflight, Run…, watch.")
    serving.serve(settings, host=host, port=port)


def _plain(settings: Settings) -> str:
    assert settings.database_url is not None
    return settings.database_url
