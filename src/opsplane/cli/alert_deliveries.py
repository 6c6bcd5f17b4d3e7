"""opsplane alerts deliveries: list, resend."""

import uuid
from typing import Annotated

import typer

from opsplane.alerts import deliveries, destinations
from opsplane.alerts.deliveries import DeliveryOut
from opsplane.alerts.models import DeliveryStatus
from opsplane.auth.actors import Actor
from opsplane.cli import alert_destinations, alerting, context, looks, output
from opsplane.cli.alerting import quoted
from opsplane.runbooks.service import Plane
from opsplane.runs import words

app = typer.Typer(no_args_is_help=True, help="What was sent, is on its way, was left out or given up.")

NO_MATCH = "No delivery matches; leave out an option to see more."
NONE_YET = "No delivery yet. To see whether one would arrive: opsplane alerts destinations test NAME"


@app.command("list")
def list_(
    status: Annotated[
        DeliveryStatus | None,
        typer.Option(help="Only with this status; dead: given up, suppressed: by a cooldown."),
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="DESTINATION", help="Only to this destination, by name or id.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    json_: output.AsJson = False,
) -> None:
    """List deliveries, newest first."""

    async def act(plane: Plane, _by: Actor) -> None:
        async with plane.db.reading() as session:
            places, none_yet = await destinations.every(session), alert_destinations.NONE_YET
            place = None if to is None else alerting.pick(places, to, "destination", none_yet=none_yet).id
            found = await deliveries.page(
                session, status=status, destination_id=place, limit=limit, base_url=plane.settings.base_url
            )
        if json_:
            output.as_json(found)
            return
        output.rows(
            ("ID", "MADE", "WHAT", "TO", "STATUS", "TRIES", "NEXT", "LAST ERROR"), [_row(one) for one in found],
            empty=NO_MATCH if status or to else NONE_YET,
        )  # fmt: skip
        if any(one.status is DeliveryStatus.DEAD and one.can_resend for one in found):
            output.note("To send what was given up again: opsplane alerts deliveries resend ID")

    alerting.run(None, act)


@app.command()
def resend(
    delivery_id: Annotated[uuid.UUID, typer.Argument(metavar="ID", help="The delivery's id.")],
    as_: context.AsUser = None,
    json_: output.AsJson = False,
) -> None:
    """Send a delivery that is dead, suppressed or held now; it is tried for a day again."""

    async def act(plane: Plane, by: Actor) -> None:
        async with plane.db.transaction() as tx:
            sent = await deliveries.resend(tx.session, delivery_id, by=by, base_url=plane.settings.base_url)
            on = any(one.enabled for one in await destinations.every(tx.session) if one.id == sent.destination_id)
        if json_:
            output.as_json(sent)
            return
        output.note(f"{sent.title} is on its way to {quoted(sent.destination)}, sent within seconds.")
        if not on:
            name = quoted(sent.destination)
            output.note(f"But {name} is switched off: opsplane alerts destinations change {name} --enable")
        output.note(f"What becomes of it: opsplane alerts deliveries list --to {quoted(sent.destination)}")

    alerting.run(as_, act)


def _row(shown: DeliveryOut) -> tuple[object, ...]:
    next_ = words.moment(shown.due_at) if shown.due_at else ""
    return (
        shown.id,
        words.moment(shown.created_at),
        shown.title,
        shown.destination,
        looks.label("delivery", shown.status),
        shown.attempts,
        f"done {words.moment(shown.delivered_at)}" if shown.delivered_at else next_,
        shown.last_error,
    )
