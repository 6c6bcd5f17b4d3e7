"""opsplane alerts destinations: list, change, test, remove."""

from typing import Annotated, Any

import typer
from rich.text import Text
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.alerts import destinations, health, rules, trying
from opsplane.alerts.channels.targets import Target, made_secret
from opsplane.alerts.health import Health
from opsplane.alerts.models import AlertDestination
from opsplane.alerts.trying import Tried
from opsplane.api.alerts import DestinationAdded, DestinationOut
from opsplane.auth.actors import Actor
from opsplane.cli import alert_addresses, alerting, context, looks, output
from opsplane.cli.alert_addresses import SPILLING, UrlStdin
from opsplane.cli.alerting import quoted
from opsplane.errors import InvalidInput
from opsplane.runbooks.service import Plane
from opsplane.runs import words

app = typer.Typer(no_args_is_help=True, help="Where alerts can go.")

Which = Annotated[str, typer.Argument(metavar="NAME", help="The destination's name or id.")]

NONE_YET = "there is none yet; add one: opsplane alerts destinations add teams NAME"
CHECK = {
    "teams": "Is the Workflow still there and switched on? For its new URL: {change} --new-url",
    "email": "Check OPSPLANE_SMTP_URL, and the recipients: {change} --to ADDRESS",
    "webhook": "Check the receiver, OPSPLANE_ALERT_PRIVATE_HOSTS, SSL_CERT_FILE. For another URL: {change} --new-url",
    "service": "Check the account there. For a new URL: {change} --new-url",
}


@app.command("list")
def list_(json_: output.AsJson = False) -> None:
    """List destinations, and whether what is sent there arrives."""

    async def act(plane: Plane, _by: Actor) -> None:
        async with plane.db.reading() as session:
            healths = await health.of_all(session)
            found = [DestinationOut.of(one, healths.get(one.id, Health())) for one in await destinations.every(session)]
        if json_:
            output.as_json(found)
        else:
            empty = "No destination, so nobody is told of anything: opsplane alerts destinations add teams NAME"
            output.rows(
                ("NAME", "KIND", "ADDRESS", "", "LAST DELIVERED", "TROUBLE"), [_row(one) for one in found], empty=empty
            )

    alerting.run(None, act)


@app.command(context_settings=SPILLING)
def change(
    ctx: typer.Context,
    name: Which,
    rename: Annotated[str | None, typer.Option(metavar="NAME", help="A new name.")] = None,
    enabled: alerting.OnOff = None,
    new_url: Annotated[bool, typer.Option("--new-url", help="Ask for a new URL.")] = False,
    url_stdin: UrlStdin = False,
    to: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="ADDRESS", help="E-mail: in place of all recipients; repeatable."),
    ] = None,
    as_: context.AsUser = None,
    json_: output.AsJson = False,
) -> None:
    """Rename a destination, switch it off or on, or give it a new address."""
    new_url = new_url or url_stdin
    with context.errors():
        alert_addresses.require_unspilled(ctx)
        if rename is None and enabled is None and not new_url and not to:
            raise InvalidInput(alerting.NOTHING_GIVEN)
        renamed = None if rename is None else alerting.name(rename, "--rename")
        if new_url:
            alert_addresses.require_way(ctx, stdin=url_stdin)

    async def act(plane: Plane, by: Actor) -> None:
        async with plane.db.reading() as session:
            found = await _find(session, name)
        target = _new_target(found, new_url=new_url, to=to or [])
        async with plane.db.transaction() as tx:
            found = await destinations.change(
                tx.session, plane.settings, found.id, name=renamed, enabled=enabled, target=target, by=by
            )
            made = await shown(tx.session, found, target)
        if json_:
            output.as_json(made)
            return
        output.note(f"Changed {called(found)}{'' if found.enabled else ', switched off'}.")
        if not found.enabled:
            output.note("Nothing new goes there. What is on its way there waits, and is given up after a day.")
        if target is not None:
            output.note(f"See whether it arrives: opsplane alerts destinations test {quoted(found.name)}")
        if made.secret is not None:
            output.note("The receiver needs another secret too; the one it has signs nothing any more.")
        show_secret(made)

    alerting.run(as_, act)


@app.command("test")
def send_test(name: Which, as_: context.AsUser = None, json_: output.AsJson = False) -> None:
    """Send a test message now; leaves with 1 if it does not arrive."""

    async def act(plane: Plane, by: Actor) -> tuple[AlertDestination, Tried]:
        async with plane.db.reading() as session:
            found = await _find(session, name)
        with output.err.status(f"Sending to {found.kind}"):
            return found, await trying.attempt(plane.db, plane.settings, found.id, by=by)

    found, tested = alerting.run(as_, act)
    if json_:
        output.as_json(tested)
    elif tested.delivered:
        output.note(f"Delivered in {words.duration(tested.took_ms)}.")
        if not found.enabled:
            output.note(f"But it is switched off: opsplane alerts destinations change {quoted(found.name)} --enable")
    else:
        change = f"opsplane alerts destinations change {quoted(found.name)}"
        reason = (tested.error or "").rstrip(".")
        context.fail(f"It was not delivered: {reason}. {CHECK[found.kind].format(change=change)}", context.FAILED)
    raise typer.Exit(0 if tested.delivered else context.FAILED)


@app.command()
def remove(name: Which, yes: alerting.Yes = False, as_: context.AsUser = None) -> None:
    """Delete a destination; what is on its way there is given up."""

    async def act(plane: Plane, by: Actor) -> None:
        async with plane.db.reading() as session:
            found = await _find(session, name)
            alone = [rule.name for rule in await rules.every(session) if rule.destination_ids == [found.id]]
        off = f" These rules name it alone and are switched off: {', '.join(alone)}." if alone else ""
        alerting.confirm(f"Delete {called(found)}? What is on its way there is given up.{off}", yes=yes)
        async with plane.db.transaction() as tx:
            await destinations.remove(tx.session, found.id, by=by)
        output.note(f"{found.name!r} is deleted.{off}")

    alerting.run(as_, act)


async def _find(session: AsyncSession, name: str) -> AlertDestination:
    return alerting.pick(await destinations.every(session), name, "destination", none_yet=NONE_YET)


def _new_target(found: AlertDestination, *, new_url: bool, to: list[str]) -> Target | None:
    if to and found.kind != "email":
        raise InvalidInput(f"--to is for mail, and {called(found)} is none; a new address for it: --new-url")
    if new_url and found.kind == "email":
        raise InvalidInput(f"{called(found)} has recipients and no URL; give new ones with --to.")
    if to:
        return alert_addresses.email(to)
    return alert_addresses.asked(found.kind) if new_url else None


async def shown(session: AsyncSession, made: AlertDestination, target: Target | None) -> DestinationAdded:
    """A destination that was added or changed, with the secret if one was made."""
    how = (await health.of_all(session)).get(made.id, Health())
    secret = None if target is None else made_secret(target)
    return DestinationAdded(**DestinationOut.of(made, how).model_dump(), secret=secret)


def show_secret(shown: DestinationAdded) -> None:
    """Print it, if one was made: alone on standard output, so that it can be piped."""
    if shown.secret is not None:
        output.note("The secret with which the receiver checks signatures, shown once:")
        typer.echo(shown.secret)


def called(found: AlertDestination) -> str:
    """A destination as people tell it from others."""
    return f"{found.name!r} ({looks.label('channel', found.kind).plain}, {found.address})"


def _row(shown: DestinationOut) -> tuple[Any, ...]:
    how = shown.health
    last = None if how.last_delivered_at is None else words.moment(how.last_delivered_at)
    state = Text("on" if shown.enabled else "off", "green" if shown.enabled else "yellow")
    return shown.name, looks.label("channel", shown.kind).plain, shown.address, state, last or "never", _trouble(how)


def _trouble(how: Health) -> Text:
    failing = f"{how.failing} tried in vain, and tried again: {how.last_error}" if how.failing else ""
    dead = f"{how.dead} given up" if how.dead else ""
    return output.data("; ".join(part for part in (dead, failing) if part), "red")
