"""Trying a destination: a message sent now, to see whether it arrives."""

import time
import uuid

from pydantic import BaseModel

from opsplane.alerts import destinations, messages
from opsplane.alerts.channels.base import Undelivered
from opsplane.auth.actors import Actor
from opsplane.config import Settings
from opsplane.db import Database


class Tried(BaseModel):
    """What became of a test message."""

    delivered: bool
    error: str | None
    took_ms: int


async def attempt(db: Database, settings: Settings, destination_id: uuid.UUID, *, by: Actor) -> Tried:
    """Send a test message, outside of any transaction; that it fails is an answer, not an error.

    Raises:
        DestinationNotFound: 404.
    """
    async with db.transaction() as tx:
        destination = await destinations.find(tx.session, destination_id)
        await destinations.record_test(tx.session, destination, by=by)
    began, error = time.monotonic(), None
    try:
        await destinations.send(settings, destination, messages.test(by=by.display, base_url=settings.base_url))
    except Undelivered as refusal:
        error = refusal.reason
    return Tried(delivered=error is None, error=error, took_ms=round((time.monotonic() - began) * 1000))
