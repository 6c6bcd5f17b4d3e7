"""Destinations, rules and deliveries of alerts over JSON."""

import uuid
from datetime import datetime
from typing import Annotated, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, StrictBool

from opsplane.alerts import deliveries, destinations, health, rules, trying
from opsplane.alerts.channels.targets import Target, made_secret
from opsplane.alerts.deliveries import DeliveryNotFound, DeliveryOut, NotToResend
from opsplane.alerts.destinations import DestinationNotFound
from opsplane.alerts.health import Health
from opsplane.alerts.models import AlertDestination
from opsplane.alerts.refusals import NameTaken, TooMany
from opsplane.alerts.rules import Name, RuleChange, RuleNotFound, RuleOut, RuleSpec
from opsplane.alerts.trying import Tried
from opsplane.api import problems
from opsplane.api.deps import ThePlane, encode_cursor, id_before
from opsplane.api.queries import DeliveryQuery
from opsplane.api.rights import CanManageAlerts
from opsplane.api.schemas import Body
from opsplane.auth.tokens import InvalidToken
from opsplane.errors import InvalidInput, MissingCapability, ServiceUnavailable
from opsplane.runbooks.service import Plane

ALWAYS = (InvalidToken, MissingCapability, ServiceUnavailable)

alerts = APIRouter(prefix="/alerts")


class DestinationIn(Body):
    """A new destination."""

    name: Name
    target: Target


class DestinationChange(Body):
    """What to change of a destination; what is left out stays."""

    name: Name | None = None
    enabled: StrictBool | None = None
    target: Target | None = None


class DestinationOut(BaseModel):
    """A destination, without what gives the right to write there."""

    id: uuid.UUID
    name: str
    kind: str
    address: str
    enabled: bool
    created_at: datetime
    health: Health

    @classmethod
    def of(cls, destination: AlertDestination, how: Health) -> Self:
        """Show one."""
        columns = {name: getattr(destination, name) for name in cls.model_fields if name != "health"}
        return cls(**columns, health=how)


class DestinationAdded(DestinationOut):
    """A destination that was just added."""

    secret: Annotated[str | None, Field(description="The secret of a webhook if it was made here; shown once.")]


class DestinationPage(BaseModel):
    """All destinations, by name."""

    items: list[DestinationOut]
    next_cursor: None = None


class RulePage(BaseModel):
    """All rules, oldest first."""

    items: list[RuleOut]
    next_cursor: None = None


class DeliveryPage(BaseModel):
    """A page of deliveries, newest first."""

    items: list[DeliveryOut]
    next_cursor: str | None


class AlertsOut(BaseModel):
    """All there is about alerts."""

    destinations: list[DestinationOut]
    rules: list[RuleOut]
    deliveries: DeliveryPage


@alerts.get("", responses=problems.responses(*ALWAYS, InvalidInput))
async def show_alerts(who: CanManageAlerts, plane: ThePlane, query: Annotated[DeliveryQuery, Query()]) -> AlertsOut:
    """Destinations, rules, and a page of deliveries."""
    found = await list_destinations(who, plane)
    ruled = await list_rules(who, plane)
    return AlertsOut(destinations=found.items, rules=ruled.items, deliveries=await list_deliveries(who, plane, query))


@alerts.get("/destinations", responses=problems.responses(*ALWAYS))
async def list_destinations(who: CanManageAlerts, plane: ThePlane) -> DestinationPage:
    """Every destination, and whether what is sent there arrives."""
    async with plane.db.reading() as session:
        healths = await health.of_all(session)
        found = await destinations.every(session)
    return DestinationPage(items=[DestinationOut.of(one, healths.get(one.id, Health())) for one in found])


@alerts.post("/destinations", status_code=201, responses=problems.responses(*ALWAYS, NameTaken, TooMany, InvalidInput))
async def add_destination(body: DestinationIn, who: CanManageAlerts, plane: ThePlane) -> DestinationAdded:
    """Add a destination; events that happen from now on go there."""
    async with plane.db.transaction() as tx:
        made = await destinations.add(tx.session, plane.settings, body.name, body.target, by=who)
    return DestinationAdded(**DestinationOut.of(made, Health()).model_dump(), secret=made_secret(body.target))


@alerts.get("/destinations/{destination_id}", responses=problems.responses(*ALWAYS, DestinationNotFound))
async def show_destination(destination_id: uuid.UUID, who: CanManageAlerts, plane: ThePlane) -> DestinationOut:
    """One destination."""
    return await _shown(plane, destination_id)


@alerts.patch(
    "/destinations/{destination_id}",
    responses=problems.responses(*ALWAYS, DestinationNotFound, NameTaken, InvalidInput),
)
async def change_destination(
    destination_id: uuid.UUID, body: DestinationChange, who: CanManageAlerts, plane: ThePlane
) -> DestinationAdded:
    """Change a destination's name or target, or switch it off and on."""
    async with plane.db.transaction() as tx:
        await destinations.change(
            tx.session, plane.settings, destination_id, name=body.name, enabled=body.enabled, target=body.target, by=who
        )
    return DestinationAdded(**(await _shown(plane, destination_id)).model_dump(), secret=made_secret(body.target))


@alerts.delete(
    "/destinations/{destination_id}", status_code=204, responses=problems.responses(*ALWAYS, DestinationNotFound)
)
async def delete_destination(destination_id: uuid.UUID, who: CanManageAlerts, plane: ThePlane) -> None:
    """Delete a destination; what was on its way there is dead."""
    async with plane.db.transaction() as tx:
        await destinations.remove(tx.session, destination_id, by=who)


@alerts.post("/destinations/{destination_id}/test", responses=problems.responses(*ALWAYS, DestinationNotFound))
async def test_destination(destination_id: uuid.UUID, who: CanManageAlerts, plane: ThePlane) -> Tried:
    """Send a test message now, and say what became of it; that it fails is an answer, not an error."""
    return await trying.attempt(plane.db, plane.settings, destination_id, by=who)


@alerts.get("/rules", responses=problems.responses(*ALWAYS))
async def list_rules(who: CanManageAlerts, plane: ThePlane) -> RulePage:
    """Every rule."""
    async with plane.db.reading() as session:
        return RulePage(items=await rules.every(session))


@alerts.post("/rules", status_code=201, responses=problems.responses(*ALWAYS, NameTaken, TooMany, InvalidInput))
async def add_rule(body: RuleSpec, who: CanManageAlerts, plane: ThePlane) -> RuleOut:
    """Add a rule; events that happen from now on are judged by it."""
    async with plane.db.transaction() as tx:
        return await rules.add(tx.session, body, by=who)


@alerts.patch("/rules/{rule_id}", responses=problems.responses(*ALWAYS, RuleNotFound, NameTaken, InvalidInput))
async def change_rule(rule_id: uuid.UUID, body: RuleChange, who: CanManageAlerts, plane: ThePlane) -> RuleOut:
    """Change fields of a rule."""
    async with plane.db.transaction() as tx:
        return await rules.change(tx.session, rule_id, body.given(), by=who)


@alerts.delete("/rules/{rule_id}", status_code=204, responses=problems.responses(*ALWAYS, RuleNotFound))
async def delete_rule(rule_id: uuid.UUID, who: CanManageAlerts, plane: ThePlane) -> None:
    """Delete a rule."""
    async with plane.db.transaction() as tx:
        await rules.remove(tx.session, rule_id, by=who)


@alerts.get("/deliveries", responses=problems.responses(*ALWAYS, InvalidInput))
async def list_deliveries(
    who: CanManageAlerts, plane: ThePlane, query: Annotated[DeliveryQuery, Query()]
) -> DeliveryPage:
    """What was sent, is on its way, was left out or given up; newest first."""
    before = id_before(query.cursor)
    async with plane.db.reading() as session:
        found = await deliveries.page(
            session, status=query.status, destination_id=query.destination_id, before=before, limit=query.limit + 1,
            base_url=plane.settings.base_url,
        )  # fmt: skip
    more = len(found) > query.limit
    items = found[: query.limit]
    return DeliveryPage(items=items, next_cursor=encode_cursor(items[-1].id) if more else None)


@alerts.post(
    "/deliveries/{delivery_id}/resend",
    status_code=202,
    responses=problems.responses(*ALWAYS, DeliveryNotFound, NotToResend),
)
async def resend_delivery(delivery_id: uuid.UUID, who: CanManageAlerts, plane: ThePlane) -> DeliveryOut:
    """Put a delivery that is dead, suppressed or held on its way now."""
    async with plane.db.transaction() as tx:
        return await deliveries.resend(tx.session, delivery_id, by=who, base_url=plane.settings.base_url)


async def _shown(plane: Plane, destination_id: uuid.UUID) -> DestinationOut:
    async with plane.db.reading() as session:
        found = await destinations.find(session, destination_id)
        healths = await health.of_all(session)
    return DestinationOut.of(found, healths.get(found.id, Health()))
