"""opsplane audit: prove that the record is whole, and take it elsewhere."""

import json
import sys
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TextIO

import typer

from opsplane.audit import verification, views
from opsplane.audit.anchor import Anchor
from opsplane.audit.verification import Verdict
from opsplane.audit.views import Wanted
from opsplane.cli import context, output
from opsplane.runbooks.service import Plane

app = typer.Typer(no_args_is_help=True, help="The record of what was done, by whom and why.")

When = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="UTC.")]


@app.command()
def verify(
    anchor: Annotated[
        list[str] | None,
        typer.Option(metavar="SEQ:HMAC", help="A link kept elsewhere, as of a log line audit_sealed; repeatable."),
    ] = None,
    json_: output.AsJson = False,
) -> None:
    """Check every event and seal; prints the first that is broken, and leaves with 1."""

    async def act(plane: Plane) -> Verdict:
        return await verification.verify(plane.db, plane.settings, *map(Anchor.parse, anchor or []))

    verdict = context.run(act)
    if json_:
        output.as_json(_as_dict(verdict))
    else:
        _tell(verdict)
    if verdict.breaks:
        raise typer.Exit(context.FAILED)


@app.command()
def export(
    since: When = None,
    until: When = None,
    to: Annotated[Path | None, typer.Option("--output", help="A new file; default: standard output.")] = None,
) -> None:
    """Write events as JSON lines, oldest first, each with its seal."""
    wanted = Wanted(since=since and since.replace(tzinfo=UTC), until=until and until.replace(tzinfo=UTC))

    async def act(plane: Plane) -> int:
        written = 0
        async with plane.db.reading() as session:
            async for event in views.export(session, wanted):
                out.write(json.dumps(event) + "\n")
                written += 1
        return written

    with _opened(to) as out:
        written = context.run(act)
    if to is not None:
        output.note(f"Wrote {written:,} events to {to}.")


def _opened(to: Path | None) -> AbstractContextManager[TextIO]:
    """Where to write; a file must be new, so that no record is written over."""
    if to is None:
        return nullcontext(sys.stdout)
    try:
        return to.open("x", encoding="utf-8")
    except FileExistsError:
        context.fail(f"{to} is there already; name a new file", context.USAGE)
    except OSError as error:
        context.fail(f"cannot write {to}: {error.strerror}", context.USAGE)
    raise AssertionError("fail leaves")


def _as_dict(verdict: Verdict) -> dict[str, object]:
    first = verdict.first
    return {
        "intact": not verdict.breaks,
        "sealed": verdict.sealed,
        "waiting": verdict.waiting,
        "anchor": str(verdict.end),
        "broken": verdict.breaks,
        "first_broken": first and {"seq": first.seq, "event_id": first.event_id, "what": first.what},
    }


def _tell(verdict: Verdict) -> None:
    output.note(f"{verdict.sealed:,} events are sealed, {verdict.waiting:,} wait for their seal.")
    if verdict.first is None:
        output.note(
            f"Every one is as it was written. Keep this elsewhere, and give it to --anchor later: {verdict.end}"
        )
        return
    first = verdict.first
    place = f"number {first.seq:,} of the chain" if first.seq is not None else "outside of the chain"
    event = f", event {first.event_id}" if first.event_id else ""
    typer.echo(f"BROKEN: {verdict.breaks:,}. The first is {place}{event}: {first.what}.")
    if verdict.breaks >= verdict.sealed > 1:
        output.note("All are broken: is this the key they were made with? See OPSPLANE_AUDIT_KEY, OPSPLANE_SECRET_KEY.")
