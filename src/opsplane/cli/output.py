"""What commands print: tables and bars for people, JSON for programs."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from opsplane.doctor import Finding
from opsplane.runs.views import RunOut

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# A pipe has no width; without one, rich would cut ids to fit 80 columns.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 250)
err = Console(stderr=True, highlight=False, soft_wrap=True)

STYLES = {"succeeded": "green", "partially_succeeded": "yellow", "failed": "red", "cancelled": "yellow"}


def note(text: str) -> None:
    """Tell people something that is not data."""
    err.print(text, markup=False)


def as_json(data: Any) -> None:
    """Print data as JSON."""
    typer.echo(json.dumps(_plain(data), indent=2, default=str))


def rows(columns: Sequence[str], values: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print a table, or what to do when there is nothing to show."""
    if not values:
        note(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0)  # the id stays whole, so that it can be copied
    for row in values:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))  # data is never markup
    out.print(table)


def facts(values: Mapping[str, object]) -> None:
    """Print labelled values."""
    width = max(len(label) for label in values)
    for label, value in values.items():
        shown = value if isinstance(value, Text) else Text("-" if value is None else str(value))
        out.print(Text.assemble((f"{label:<{width}}", "dim"), "  ", shown))


def checks(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print what doctor found."""
    if as_json:
        typer.echo(json.dumps([vars(finding) for finding in findings], indent=2))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        table.add_row("[green]ok[/green]" if finding.ok else "[red]wrong[/red]", finding.name, finding.detail)
    out.print(table)


def run(shown: RunOut, *, json_: bool) -> None:
    """Print a run."""
    if json_:
        as_json(shown)
        return
    counts = shown.summary_counts
    style = STYLES.get(shown.outcome, "cyan")
    facts({
        "Run": shown.id,
        "Runbook": f"{shown.type_label} ({shown.type})",
        "Scope": scope(shown),
        "Status": Text(f"{shown.status}, {shown.outcome}", style),
        "Started by": f"{shown.actor.display} ({shown.source})",
        "Reason": f"{shown.reason.code}: {shown.reason.text}" if shown.reason else None,
        "Tenants": f"{counts.get('processed', 0):,} of {counts.get('total', 0):,} done: "
        f"{counts.get('succeeded', 0):,} repaired, {counts.get('skipped', 0):,} had nothing to repair, "
        f"{counts.get('failed', 0):,} failed",
        "Rows": f"{shown.context.updated_count:,} updated, {shown.context.preflight.affected_count or 0:,} seen wrong",
        "Took": f"{shown.context.duration_ms / 1000:.1f} s" if shown.context.duration_ms is not None else None,
        "View": shown.view_url,
    })  # fmt: skip
    for failure in shown.failures:
        err.print(
            f"{failure.tenant_external_id or 'run'}: {failure.code}: {failure.message}", style="red", markup=False
        )


def scope(shown: RunOut) -> str:
    """A run's scope in words."""
    return f"tenant {shown.scope.tenant_external_id}" if shown.scope.tenant_id else "all tenants"


class Bar:
    """A bar of rows with rate and time left; silent when nobody watches."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def show(self, shown: RunOut) -> None:
        """Move to where the run is."""
        counts = shown.summary_counts
        rate = shown.progress.rows_per_s
        self._progress.update(
            self._task,
            total=shown.context.preflight.affected_count or counts.get("total") or 1,
            completed=counts.get("updated", 0)
            if shown.context.preflight.affected_count
            else counts.get("processed", 0),
            description=f"{shown.status}  {counts.get('processed', 0):,}/{counts.get('total', 0):,} tenants",
            rate=f"{rate:,.0f} rows/s" if rate else "",
        )


@contextmanager
def bar() -> Iterator[Bar]:
    """A live bar on stderr."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=False) as progress:
        yield Bar(progress, progress.add_task("queued", total=None, rate=""))


def _plain(data: Any) -> Any:
    if isinstance(data, BaseModel):
        return data.model_dump(mode="json")
    if isinstance(data, list):
        return [_plain(entry) for entry in data]
    return data
