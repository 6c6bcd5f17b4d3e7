"""opsplane alerts destinations add: teams, email, webhook, service."""

from typing import Annotated

import typer

from opsplane.alerts import destinations, rules
from opsplane.alerts.channels.targets import Target
from opsplane.alerts.refusals import NameTaken
from opsplane.auth.actors import Actor
from opsplane.cli import alert_addresses, alert_destinations, alerting, context, output
from opsplane.cli.alert_addresses import SPILLING, UrlStdin
from opsplane.cli.alerting import quoted
from opsplane.runbooks.service import Plane

app = typer.Typer(no_args_is_help=True, help="Add a destination.")

NewName = Annotated[str, typer.Argument(metavar="NAME", help="What people call it, such as ops.")]
To = Annotated[list[str], typer.Option("--to", metavar="ADDRESS", help="Who gets the mail; repeatable.")]


@app.command("teams", context_settings=SPILLING)
def add_teams(
    ctx: typer.Context,
    name: NewName,
    url_stdin: UrlStdin = False,
    as_: context.AsUser = None,
    json_: output.AsJson = False,
) -> None:
    """Add a channel or chat of Microsoft Teams, by the URL of a Workflow; it is asked for."""
    _add_url(ctx, "teams", name, stdin=url_stdin, as_=as_, json_=json_)


@app.command("email")
def add_email(name: NewName, to: To, as_: context.AsUser = None, json_: output.AsJson = False) -> None:
    """Add people with mail."""
    with context.errors():
        called, target = alerting.name(name), alert_addresses.email(to)

    async def act(plane: Plane, by: Actor) -> None:
        await _add(plane, called, target, by=by, json_=json_)

    alerting.run(as_, act)


@app.command("webhook", context_settings=SPILLING)
def add_webhook(
    ctx: typer.Context,
    name: NewName,
    url_stdin: UrlStdin = False,
    as_: context.AsUser = None,
    json_: output.AsJson = False,
) -> None:
    """Add a receiver of signed JSON; its URL is asked for. A secret that is made here is shown once."""
    _add_url(ctx, "webhook", name, stdin=url_stdin, as_=as_, json_=json_)


@app.command("service", context_settings=SPILLING)
def add_service(
    ctx: typer.Context,
    name: NewName,
    url_stdin: UrlStdin = False,
    as_: context.AsUser = None,
    json_: output.AsJson = False,
) -> None:
    """Add Slack, PagerDuty, Opsgenie and their like, by their apprise URL; it is asked for."""
    _add_url(ctx, "service", name, stdin=url_stdin, as_=as_, json_=json_)


def _add_url(ctx: typer.Context, kind: str, name: str, *, stdin: bool, as_: str | None, json_: bool) -> None:
    with context.errors():
        called = alerting.name(name)
        alert_addresses.require_way(ctx, stdin=stdin)

    async def act(plane: Plane, by: Actor) -> None:
        await _require_free(plane, called)
        await _add(plane, called, alert_addresses.asked(kind), by=by, json_=json_)

    alerting.run(as_, act)


async def _add(plane: Plane, name: str, target: Target, *, by: Actor, json_: bool) -> None:
    async with plane.db.transaction() as tx:
        made = await destinations.add(tx.session, plane.settings, name, target, by=by)
        shown = await alert_destinations.shown(tx.session, made, target)
        sending = [one.name for one in await rules.every(tx.session) if one.enabled and not one.destination_ids]
    if json_:
        output.as_json(shown)
        return
    output.note(f"Added {alert_destinations.called(made)}.")
    if sending:
        output.note(f"What happens from now on is sent there by the rules for every destination: {', '.join(sending)}.")
    else:
        output.note(f"No rule sends anything there yet: opsplane alerts rules add RULE --to {quoted(made.name)}")
    output.note(f"Next, see whether it arrives: opsplane alerts destinations test {quoted(made.name)}")
    alert_destinations.show_secret(shown)


async def _require_free(plane: Plane, name: str) -> None:
    """Refuse a name before anybody has typed a long URL for it."""
    async with plane.db.reading() as session:
        if any(one.name == name for one in await destinations.every(session)):
            raise NameTaken(name)
