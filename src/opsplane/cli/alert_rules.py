"""opsplane alerts rules: list, add, change, remove."""

import uuid
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.alerts import destinations, rules, words
from opsplane.alerts.rules import RuleChange, RuleOut, RuleSpec
from opsplane.auth.actors import Actor
from opsplane.cli import alert_options, alerting, context, output
from opsplane.errors import InvalidInput
from opsplane.runbooks.service import Plane

app = typer.Typer(no_args_is_help=True, help="Which events go where, how often, and at which hours.")

NONE_YET = "there is none yet; add one: opsplane alerts rules add NAME"
NewName = Annotated[str, typer.Argument(metavar="NAME", help="What people call the rule.")]
Which = Annotated[str, typer.Argument(metavar="NAME", help="The rule's name or id.")]


@app.command("list")
def list_(json_: output.AsJson = False) -> None:
    """List rules; a line says what each does."""

    async def act(plane: Plane, _by: Actor) -> None:
        async with plane.db.reading() as session:
            found, names = await rules.every(session), await _names(session)
        if json_:
            output.as_json(found)
        else:
            table = [(one.name, "on" if one.enabled else "off", words.rule(one, names)) for one in found]
            empty = "No rule, so nothing is sent to anybody: opsplane alerts rules add NAME"
            output.rows(("NAME", "", "SENDS"), table, empty=empty)

    alerting.run(None, act)


@app.command()
def add(
    name: NewName,
    event: alert_options.Events = None,
    min_severity: alert_options.AtLeast = None,
    runbook: alert_options.Runbooks = None,
    scope: alert_options.Scope = None,
    tenant: alert_options.Tenants = None,
    to: alert_options.To = None,
    cooldown: alert_options.Cooldown = None,
    quiet: alert_options.Quiet = None,
    zone: alert_options.Zone = None,
    enabled: alerting.OnOff = None,
    as_: context.AsUser = None,
    json_: output.AsJson = False,
) -> None:
    """Add a rule. Without options it sends all but successes to every destination, at once."""

    async def act(plane: Plane, by: Actor) -> None:
        typed = alert_options.typed(event, min_severity, runbook, scope, cooldown) | alert_options.hours(
            None, quiet, zone
        )
        async with plane.db.transaction() as tx:
            given = {"name": alerting.name(name), "enabled": enabled is not False} | typed
            given |= await alert_options.looked_up(tx.session, tenant, to)
            added = await rules.add(tx.session, alerting.parsed(RuleSpec, given, alert_options.OPTIONS), by=by)
            names = await _names(tx.session)
        _tell("Added", added, names, json_=json_)

    alerting.run(as_, act)


@app.command()
def change(
    name: Which,
    rename: Annotated[str | None, typer.Option(metavar="NAME", help="A new name.")] = None,
    event: alert_options.Events = None,
    min_severity: alert_options.AtLeast = None,
    runbook: alert_options.Runbooks = None,
    every_runbook: Annotated[bool, typer.Option("--every-runbook", help="Runs of any runbook again.")] = False,
    scope: alert_options.Scope = None,
    every_scope: Annotated[bool, typer.Option("--every-scope", help="Runs of any scope again.")] = False,
    tenant: alert_options.Tenants = None,
    every_tenant: Annotated[bool, typer.Option("--every-tenant", help="Runs over any tenant again.")] = False,
    to: alert_options.To = None,
    every_destination: Annotated[bool, typer.Option("--every-destination", help="Send everywhere again.")] = False,
    cooldown: alert_options.Cooldown = None,
    quiet: alert_options.Quiet = None,
    zone: alert_options.Zone = None,
    no_quiet: Annotated[bool, typer.Option("--no-quiet", help="No quiet hours any more.")] = False,
    enabled: alerting.OnOff = None,
    as_: context.AsUser = None,
    json_: output.AsJson = False,
) -> None:
    """Change what is given of a rule; lists are replaced as a whole."""
    cleared: dict[str, Any] = {
        **({"runbooks": []} if every_runbook else {}),
        **({"scope": None} if every_scope else {}),
        **({"tenants": []} if every_tenant else {}),
        **({"destination_ids": []} if every_destination else {}),
        **({"quiet_hours": None} if no_quiet else {}),
    }

    async def act(plane: Plane, by: Actor) -> None:
        typed = alert_options.typed(event, min_severity, runbook, scope, cooldown)
        typed |= {} if rename is None else {"name": alerting.name(rename, "--rename")}
        typed |= {} if enabled is None else {"enabled": enabled}
        async with plane.db.transaction() as tx:
            found = await _find(tx.session, name)
            typed |= await alert_options.looked_up(tx.session, tenant, to) | alert_options.hours(
                found.quiet_hours, quiet, zone
            )
            given, names = _one_of_both(typed, cleared), await _names(tx.session)
            if "destination_ids" not in given and not names.keys() >= set(found.destination_ids):
                raise InvalidInput(f"Where {found.name!r} sends was deleted; add --to NAME, or --every-destination.")
            alerting.parsed(RuleChange, given, alert_options.OPTIONS)
            changed = await rules.change(tx.session, found.id, given, by=by)
        _tell("Changed", changed, names, json_=json_)

    alerting.run(as_, act)


@app.command()
def remove(name: Which, yes: alerting.Yes = False, as_: context.AsUser = None) -> None:
    """Delete a rule; what it has sent on its way still arrives."""

    async def act(plane: Plane, by: Actor) -> None:
        async with plane.db.reading() as session:
            found, names = await _find(session, name), await _names(session)
        alerting.confirm(f"Delete the rule {found.name!r}? It sends: {words.rule(found, names)}.", yes=yes)
        async with plane.db.transaction() as tx:
            await rules.remove(tx.session, found.id, by=by)
            others = [rule for rule in await rules.every(tx.session) if rule.enabled]
        output.note(f"The rule {found.name!r} is deleted.")
        if not others:
            output.note("No rule is left that sends anything: opsplane alerts rules add NAME")

    alerting.run(as_, act)


async def _find(session: AsyncSession, name: str) -> RuleOut:
    return alerting.pick(await rules.every(session), name, "rule", none_yet=NONE_YET)


async def _names(session: AsyncSession) -> dict[uuid.UUID, str]:
    found = await destinations.every(session)
    return {one.id: one.name if one.enabled else f"{one.name} (off)" for one in found}


def _one_of_both(typed: Mapping[str, Any], cleared: Mapping[str, Any]) -> dict[str, Any]:
    if both := sorted(typed.keys() & cleared.keys()):
        raise InvalidInput(f"{alert_options.OPTIONS[both[0]]} is given and taken back at once; leave one out.")
    if not typed and not cleared:
        raise InvalidInput(alerting.NOTHING_GIVEN)
    return {**typed, **cleared}


def _tell(done: str, rule: RuleOut, names: Mapping[uuid.UUID, str], *, json_: bool) -> None:
    if json_:
        output.as_json(rule)
        return
    off = "" if rule.enabled else ", switched off"
    output.note(f"{done} {rule.name!r}{off}: {words.rule(rule, names)}.")
    if not names:
        output.note("There is no destination yet: opsplane alerts destinations add teams NAME")
