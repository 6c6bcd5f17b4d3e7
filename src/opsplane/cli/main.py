"""The console script `opsplane`."""

from typing import Annotated

import typer

from opsplane import __version__
from opsplane.cli import alerts, audit, demo, findings, members, new, processes, runbooks, runs, tenants, tokens, users

app = typer.Typer(
    name="opsplane",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Repairs of multi-tenant Postgres data as safe, tracked, audited runbooks.",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"opsplane {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Repairs of multi-tenant Postgres data as safe, tracked, audited runbooks."""


app.command()(demo.demo)
app.command()(processes.up)
app.command()(processes.serve)
app.command()(processes.worker)
app.command()(processes.migrate)
app.command()(processes.doctor)
app.add_typer(runbooks.app, name="runbooks")
app.add_typer(runs.app, name="runs")
app.add_typer(tenants.app, name="tenants")
app.add_typer(findings.app, name="findings")
app.add_typer(users.app, name="users")
app.add_typer(tokens.app, name="tokens")
app.add_typer(members.app, name="members")
app.add_typer(alerts.app, name="alerts")
app.add_typer(audit.app, name="audit")
app.add_typer(new.app, name="new")


def run() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    run()
