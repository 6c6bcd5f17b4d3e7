"""opsplane new: scaffolds."""

from pathlib import Path
from typing import Annotated

import typer

from opsplane.cli import context, output
from opsplane.runbooks import scaffold

app = typer.Typer(no_args_is_help=True, help="Write the beginnings of something.")


@app.callback()
def _group() -> None:
    """Keep `runbook` a subcommand although it is the only one."""


@app.command()
def runbook(
    key: Annotated[str, typer.Argument(metavar="KEY", help="For example invoices.due-date.backfill")],
    into: Annotated[Path, typer.Option(help="Folder of your runbooks.")] = Path("runbooks"),
) -> None:
    """Write one runbook file and its test."""
    with context.errors():
        file, test = scaffold.write(key, into)
    typer.echo(f"{file}\n{test}")
    output.note(
        f"Next: edit wrong() and right(), then\n"
        f"  OPSPLANE_RUNBOOKS_DIR={into} opsplane runbooks preflight {key}\n"
        f"or, in a package of yours, add to its pyproject.toml\n"
        f'  [project.entry-points."opsplane.runbooks"]\n'
        f'  {file.stem} = "your_package.{file.stem}"'
    )
