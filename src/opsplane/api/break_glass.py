"""Entering and leaving an emergency."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field, StrictInt

from opsplane.access import emergencies
from opsplane.access.emergencies import MAX_MINUTES, BreakGlassActive, BreakGlassReasonRequired
from opsplane.access.operators import SessionRequired
from opsplane.api import problems
from opsplane.api.deps import ThePlane
from opsplane.api.rights import CanBreakGlass
from opsplane.api.schemas import Body
from opsplane.auth.models import BreakGlass
from opsplane.auth.tokens import InvalidToken
from opsplane.errors import MissingCapability, ServiceUnavailable

ALWAYS = (InvalidToken, SessionRequired, ServiceUnavailable)

break_glass = APIRouter()


class BreakGlassIn(Body):
    """Why break-glass is needed, and for how long."""

    reason: Annotated[str, Field(max_length=100_000, description=f"1 to {emergencies.MAX_REASON} characters.")]
    minutes: Annotated[StrictInt, Field(ge=1, le=MAX_MINUTES)] = MAX_MINUTES


class BreakGlassOut(BaseModel):
    """An emergency that is on."""

    id: str
    reason: str
    started_at: datetime
    ends_at: datetime


@break_glass.post(
    "/break-glass",
    responses=problems.responses(*ALWAYS, MissingCapability, BreakGlassReasonRequired, BreakGlassActive),
)
async def enter_break_glass(body: BreakGlassIn, who: CanBreakGlass, plane: ThePlane) -> BreakGlassOut:
    """Enter an emergency of at most an hour; it ends by itself."""
    async with plane.db.transaction() as tx:
        begun = await emergencies.begin(tx.session, who.session, reason=body.reason, minutes=body.minutes, by=who.actor)
    return present(begun)


@break_glass.delete("/break-glass", status_code=204, responses=problems.responses(*ALWAYS, MissingCapability))
async def end_break_glass(who: CanBreakGlass, plane: ThePlane) -> None:
    """End the emergency; nothing happens if there is none."""
    async with plane.db.transaction() as tx:
        await emergencies.end(tx.session, who.session, by=who.actor)


def present(emergency: BreakGlass) -> BreakGlassOut:
    """The emergency as the API shows it."""
    return BreakGlassOut(
        id=str(emergency.id), reason=emergency.reason, started_at=emergency.started_at, ends_at=emergency.ends_at
    )
