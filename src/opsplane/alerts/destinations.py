"""Destinations: where alerts can go. What gives the right to write there is kept encrypted and never shown again."""

import base64
import uuid
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy import any_, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane import keys
from opsplane.alerts.channels import targets
from opsplane.alerts.channels.base import Undelivered
from opsplane.alerts.channels.targets import Target
from opsplane.alerts.messages import Message
from opsplane.alerts.models import OPEN, AlertDelivery, AlertDestination, AlertRule, DeliveryStatus
from opsplane.alerts.refusals import NameTaken, TooMany
from opsplane.audit import log as audit
from opsplane.auth.actors import Actor
from opsplane.config import Settings
from opsplane.db import new_id
from opsplane.errors import InvalidInput, NotFound

MOST = 100
DELETED = "The destination was deleted."


class DestinationNotFound(NotFound):
    """There is no such destination."""

    code = "destination_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such destination; `opsplane alerts destinations list` names them.")


async def every(session: AsyncSession) -> list[AlertDestination]:
    """All destinations, by name."""
    return list(await session.scalars(select(AlertDestination).order_by(AlertDestination.name)))


async def find(session: AsyncSession, destination_id: uuid.UUID, *, for_change: bool = False) -> AlertDestination:
    """One destination.

    Raises:
        DestinationNotFound: 404.
    """
    found = await session.get(AlertDestination, destination_id, with_for_update=for_change)
    if found is None:
        raise DestinationNotFound
    return found


async def add(session: AsyncSession, settings: Settings, name: str, target: Target, *, by: Actor) -> AlertDestination:
    """A new destination; what `target` holds is not shown again.

    Raises:
        InvalidInput: the settings do not allow to reach it (422).
        NameTaken: 409.
        TooMany: 422.
    """
    target.opened(settings)  # whether it may be reached is better said now than when something has happened
    if (await session.scalar(select(func.count()).select_from(AlertDestination)) or 0) >= MOST:
        raise TooMany("destinations", MOST)
    made: AlertDestination | None = await session.scalar(
        insert(AlertDestination)
        .values(id=new_id(), name=name, **_columns(settings, target))
        .on_conflict_do_nothing()
        .returning(AlertDestination)
    )
    if made is None:
        raise NameTaken(name)
    await _record(session, "added", made, by=by)
    return made


async def change(
    session: AsyncSession,
    settings: Settings,
    destination_id: uuid.UUID,
    *,
    name: str | None,
    enabled: bool | None,
    target: Target | None,
    by: Actor,
) -> AlertDestination:
    """Change what is given, and leave the rest.

    Raises:
        DestinationNotFound: 404.
        NameTaken: 409.
        InvalidInput: the settings do not allow to reach the target (422).
    """
    found = await find(session, destination_id, for_change=True)
    if target is not None:
        target.opened(settings)
    given = {"name": name, "enabled": enabled, **(_columns(settings, target) if target else {})}
    values = {column: value for column, value in given.items() if value is not None}
    if name is not None and await session.scalar(
        select(AlertDestination.id).where(AlertDestination.name == name, AlertDestination.id != found.id)
    ):
        raise NameTaken(name)
    for column, value in values.items():
        setattr(found, column, value)
    try:
        await session.flush()
    except IntegrityError:  # somebody else has just taken the name
        raise NameTaken(found.name) from None
    await _record(session, "changed", found, by=by)
    return found


async def remove(session: AsyncSession, destination_id: uuid.UUID, *, by: Actor) -> None:
    """Delete a destination; what is on its way there is dead, and rules that named it alone are switched off.

    Raises:
        DestinationNotFound: 404.
    """
    found = await find(session, destination_id, for_change=True)
    await session.execute(
        update(AlertDelivery)
        .where(AlertDelivery.destination_id == found.id, AlertDelivery.status.in_(OPEN))
        .values(status=DeliveryStatus.DEAD, last_error=DELETED)
    )
    # No destinations mean all of them: a rule that named this one alone must not begin to tell everybody.
    named = any_(AlertRule.destination_ids) == found.id
    left = func.array_remove(AlertRule.destination_ids, found.id)
    alone = func.cardinality(left) == 0
    await session.execute(update(AlertRule).where(named, alone).values(enabled=False))
    await session.execute(update(AlertRule).where(named, ~alone).values(destination_ids=left))
    await session.delete(found)
    await session.flush()
    await _record(session, "deleted", found, by=by)


async def send(settings: Settings, destination: AlertDestination, message: Message) -> None:
    """Deliver a message there.

    Raises:
        Undelivered: it was not taken, or the address cannot be read.
    """
    try:
        document = _cipher(settings).decrypt(destination.target)
    except InvalidToken:
        raise Undelivered(
            "its address cannot be decrypted since OPSPLANE_SECRET_KEY was changed; enter it again"
        ) from None
    try:
        target = targets.parse(document)
    except InvalidInput as refusal:  # of a release that is stricter than the one that kept it
        raise Undelivered(refusal.message) from None
    await targets.send(target, settings, message)


async def record_test(session: AsyncSession, destination: AlertDestination, *, by: Actor) -> None:
    """Put on record that somebody sends a test message there."""
    await _record(session, "tested", destination, by=by)


def _columns(settings: Settings, target: Target) -> dict[str, Any]:
    document = target.model_dump_json().encode()
    return {"kind": target.kind, "address": target.masked, "target": _cipher(settings).encrypt(document)}


def _cipher(settings: Settings) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(keys.derived(settings, "alerts")))


async def _record(session: AsyncSession, act: str, destination: AlertDestination, *, by: Actor) -> None:
    shown = {"name": destination.name, "kind": destination.kind, "address": destination.address}
    await audit.record(
        session, f"platform.alerts.destination_{act}", by=by, subject_type="alert_destination",
        subject_id=destination.id, details=shown | {"enabled": destination.enabled},
    )  # fmt: skip
