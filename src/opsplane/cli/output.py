"""What commands print: tables and facts for people, JSON for programs."""

import json
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from opsplane.doctor import Finding

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# A pipe has no width; without one, rich would cut ids to fit 80 columns.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 250)
err = Console(stderr=True, highlight=False, soft_wrap=True)
live = Console(stderr=True, highlight=False)  # knows where its lines end, so that it can draw over them

UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"
NARROWEST, UNBOUNDED = 20, 10_000
WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def data(value: object, style: str = "") -> Text:
    """A value as it is: no part of it is markup, and none drives the terminal."""
    if isinstance(value, Text):
        return value
    shown = "-" if value is None else str(value)
    return Text("".join(at if at.isprintable() or at == "\n" else UNPRINTABLE for at in shown), style)


def note(text: str, style: str = "") -> None:
    """Tell people something that is not data."""
    err.print(Text("\n").join(_lines(data(text, style), err, 0)))


def as_json(data: Any) -> None:
    """Print data as JSON."""
    typer.echo(json.dumps(_plain(data), indent=2, default=str))


def rows(columns: Sequence[str], values: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print a table, or a paragraph for each row where it does not fit, or what to do when there is nothing to show."""
    if not values:
        note(empty)
        return
    cells = [[data("" if cell is None else cell) for cell in row] for row in values]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0)  # the id stays whole, so that it can be copied
    for row in cells:
        table.add_row(*row)
    if Measurement.get(out, out.options.update(max_width=UNBOUNDED), table).minimum > out.width:
        _paragraphs(columns, cells)
    else:
        out.print(table)


def _paragraphs(columns: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
    for first, *others in rows:
        out.print(first)
        named = [Text.assemble((name, "dim"), " ", cell) for name, cell in zip(columns[1:], others, strict=True)]
        for line in flow(named, out.width - 2):
            out.print(Text("  ").append_text(line))


def flow(parts: Sequence[Text], width: int, gap: str = "  ") -> list[Text]:
    """The parts side by side, in as many lines as it takes to break none."""
    lines: list[Text] = []
    for part in parts:
        if lines and lines[-1].cell_len + len(gap) + part.cell_len <= width:
            lines[-1].append(gap).append_text(part)
        else:
            lines.append(Text().append_text(part))  # a copy would give its style to all that follows
    return lines


def facts(values: Mapping[str, object], *, to: Console = out) -> None:
    """Print labelled values; what is too long for the rest of a terminal's line goes on below."""
    width = max(len(label) for label in values)
    for label, value in values.items():
        lines = list(_lines(data(value), to, width + 2))
        fits = not to.is_terminal or all(line.cell_len <= to.width - width - 2 for line in lines)
        first, others = (" " * (width + 2 - len(label)), "\n" + " " * (width + 2)) if fits else ("\n", "\n")
        to.print(Text.assemble((label, "dim"), first, Text(others).join(lines)))


def _lines(value: Text, to: Console, indent: int) -> Iterable[Text]:
    """Lines that end between words; a word too long for one stays whole, for it is a link or an id to copy."""
    width = max(NARROWEST, to.width - indent)
    if not to.is_terminal or value.cell_len <= width:
        return value.split("\n")
    broken = (textwrap.wrap(line, width, **WHOLE_WORDS) or [""] for line in value.plain.split("\n"))
    return [Text(line, value.style) for lines in broken for line in lines]


def checks(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print what doctor found."""
    if as_json:
        typer.echo(json.dumps([vars(finding) for finding in findings], indent=2))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        table.add_row("[green]ok[/green]" if finding.ok else "[red]wrong[/red]", finding.name, data(finding.detail))
    out.print(table)


def _plain(data: Any) -> Any:
    if isinstance(data, BaseModel):
        return data.model_dump(mode="json")
    if isinstance(data, list):
        return [_plain(entry) for entry in data]
    return data
