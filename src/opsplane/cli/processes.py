"""Commands that run opsplane: up, serve, worker, migrate, doctor."""

import asyncio
from typing import Annotated

import typer

from opsplane import doctor as checks
from opsplane import logs, runtime, serving
from opsplane import migrate as migrations
from opsplane.cli import context, output
from opsplane.config import load

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]


def up(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Annotated[int, typer.Option(min=0, max=64, help="Worker processes.")] = 2,
) -> None:
    """Run everything here: servers unless configured, migrations, API, workers."""
    with context.errors(), runtime.servers(load()) as settings:
        logs.configure(settings)
        serving.refuse_taken(host, port)
        output.note(f"opsplane listens on http://{host}:{port}. Stop it with Ctrl-C.")
        if "base_url" not in settings.model_fields_set and not settings.base_url.endswith(f":{port}"):
            output.note(f"Links will start with {settings.base_url}; set OPSPLANE_BASE_URL=http://localhost:{port}.")
        serving.up(settings, host=host, port=port, workers=workers)


def serve(host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Run the API alone."""
    with context.errors(), runtime.servers(load()) as settings:
        logs.configure(settings)
        serving.serve(settings, host=host, port=port)


def worker(
    with_parent: Annotated[bool, typer.Option("--with-parent", help="End when standard input closes.")] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Show this process's numbers to Prometheus on this port; off without it."),
    ] = None,
    metrics_host: Annotated[
        str,
        typer.Option(help="Address for the numbers, which whoever reaches it may read: nobody is asked who they are."),
    ] = "127.0.0.1",
) -> None:
    """Run one worker process."""
    with context.errors(), serving.exposed(metrics_host, metrics_port), runtime.servers(load()) as settings:
        serving.run_worker(settings, with_parent=with_parent)


def migrate() -> None:
    """Bring the database to this release's schema."""
    with context.errors(), runtime.servers(load()) as settings:
        logs.configure(settings)
        done = asyncio.run(migrations.upgrade(settings))
        output.note("Migrated." if done else "The database is up to date.")


def doctor(as_json: output.AsJson = False) -> None:
    """Check configuration, servers and alerts, and say the next move."""
    with context.errors(), runtime.servers(load()) as settings:
        logs.configure(settings)
        findings = asyncio.run(checks.examine(settings))
        output.checks(findings, as_json=as_json)
        if any(not finding.ok for finding in findings):
            raise typer.Exit(4)
