"""opsplane findings: import what scanners found."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from opsplane.auth.capabilities import Capability
from opsplane.cli import context, output
from opsplane.findings import importer
from opsplane.findings.importer import Imported
from opsplane.runbooks.service import Plane

app = typer.Typer(no_args_is_help=True, help="What scanners found in tenants' systems.")


@app.callback()
def _group() -> None:
    """Keep `import` a subcommand although it is the only one."""


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A SARIF 2.1.0 file.")],
    tenant: Annotated[str, typer.Option(help="Id or external id.")],
    as_: context.AsUser = None,
    json_: output.AsJson = False,
) -> None:
    """Import a SARIF file: all of it, or nothing and the position of what is wrong."""

    async def act(plane: Plane) -> None:
        by = await context.actor(plane, as_)
        by.require(Capability.RUNBOOKS_RUN)  # it changes a customer's rows as a run does
        with output.err.status(f"Reading {escape(file.name)}") as status:
            done = await importer.import_sarif(
                plane.db, file, tenant, by=by, on_progress=lambda read: status.update(f"{read:,} results")
            )
        output.as_json(_shown(done)) if json_ else output.facts(_shown(done))

    context.run(act)


def _shown(done: Imported) -> dict[str, object]:
    return {
        "results": done.results,
        "inserted": done.inserted,
        "seen_again": done.seen_again,
        "skipped": done.skipped.total(),
        **{f"skipped_{reason}": count for reason, count in sorted(done.skipped.items())},
    }
