"""Options of rules: what can be typed, and what it means."""

import re
from datetime import timedelta
from typing import Annotated, Any, get_args

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.alerts import destinations, rules, words
from opsplane.alerts.rules import Event, QuietSpec
from opsplane.cli import alert_destinations, alerting
from opsplane.errors import InvalidInput
from opsplane.outbox import Severity
from opsplane.runbooks import registry
from opsplane.runbooks.scopes import ScopeKind
from opsplane.tenants import universe

EVENTS = get_args(Event)
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
OPTIONS = {
    "name": "NAME", "events": "--event", "min_severity": "--min-severity", "runbooks": "--runbook", "scope": "--scope",
    "tenants": "--tenant", "destination_ids": "--to", "cooldown_s": "--cooldown", "quiet_hours": "--quiet",
    "zone": "--zone", "": "--quiet, --zone",
}  # fmt: skip

Events = Annotated[list[str] | None, typer.Option("--event", help=f"Repeatable: {', '.join(EVENTS)}.", metavar="EVENT")]
AtLeast = Annotated[Severity | None, typer.Option("--min-severity", help="This severity and above.")]
Runbooks = Annotated[
    list[str] | None, typer.Option("--runbook", metavar="KEY", help="Runs of this runbook alone; repeatable.")
]
Scope = Annotated[ScopeKind | None, typer.Option(help="Runs of this scope alone.")]
Tenants = Annotated[
    list[str] | None,
    typer.Option("--tenant", help="Runs over this tenant alone, by id or external id; repeatable."),
]
To = Annotated[
    list[str] | None,
    typer.Option("--to", metavar="DESTINATION", help="Name or id; repeatable. None: every destination."),
]
Cooldown = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="30m, 2h, 0: the same news of the same runbook and scope is sent once in it."),
]
Quiet = Annotated[
    str | None, typer.Option(metavar="FROM-UNTIL", help="22:00-07:00: what happens then is held until it is over.")
]
Zone = Annotated[str | None, typer.Option(help="The time zone of --quiet, such as Europe/Berlin; default: UTC.")]


def typed(
    events: list[str] | None,
    severity: Severity | None,
    runbooks: list[str] | None,
    scope: ScopeKind | None,
    cooldown: str | None,
) -> dict[str, Any]:
    """What was typed and needs no database to be understood."""
    if unknown := sorted(set(events or []) - set(EVENTS)):
        raise InvalidInput(f"--event: there is no {unknown[0]!r}; there are {words.listed(EVENTS)}.")
    values = {
        "events": list(dict.fromkeys(events or [])),
        "min_severity": severity,
        "runbooks": [registry.find(key).key for key in dict.fromkeys(runbooks or [])],
        "scope": scope and str(scope),
    }
    return {field: value for field, value in values.items() if value} | (
        {} if cooldown is None else {"cooldown_s": _seconds(cooldown)}
    )


async def looked_up(session: AsyncSession, tenants: list[str] | None, to: list[str] | None) -> dict[str, Any]:
    """Tenants and destinations as rules keep them; a name that nothing has would silence the rule."""
    found: dict[str, Any] = {}
    if tenants:
        workspace = await universe.workspace_id(session)
        found["tenants"] = [(await universe.pick(session, workspace, tenant)).external_id for tenant in tenants]
    if to:
        places, none_yet = await destinations.every(session), alert_destinations.NONE_YET
        found["destination_ids"] = [alerting.pick(places, one, "destination", none_yet=none_yet).id for one in to]
    return found


def hours(now: QuietSpec | None, quiet: str | None, zone: str | None) -> dict[str, Any]:
    """New quiet hours; what is not given of them stays."""
    if quiet is None and zone is None:
        return {}
    if quiet is None and now is None:
        raise InvalidInput("--zone is that of quiet hours; give them too, such as --quiet 22:00-07:00")
    given = now.model_dump(by_alias=True) if now else {}
    if quiet is not None:
        start, dash, until = quiet.replace("\N{EN DASH}", "-").partition("-")
        if not dash:
            raise InvalidInput("--quiet is from when until when, such as 22:00-07:00")
        given |= {"from": start.strip(), "until": until.strip()}
    given |= {} if zone is None else {"zone": zone}
    return {"quiet_hours": alerting.parsed(QuietSpec, given, OPTIONS).model_dump(by_alias=True)}


def _seconds(typed: str) -> int:
    """30m, 2h, 1d, or 0."""
    found = re.fullmatch(r"(\d{1,6})\s*([smhd])", typed.strip(), re.ASCII)
    if found is None and typed.strip() != "0":
        raise InvalidInput(f"--cooldown: {typed!r} is no time; write one like 30m, 2h or 0.")
    seconds = 0 if found is None else round(timedelta(**{UNITS[found[2]]: int(found[1])}).total_seconds())
    if seconds > rules.WEEK_S:
        raise InvalidInput("--cooldown is a week at most, 7d.")
    return seconds
