"""Break-glass: for at most an hour a session may run every runbook, with a reason, and everybody sees it."""

import uuid
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import timedelta
from http import HTTPStatus

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane import outbox
from opsplane.audit import log as audit
from opsplane.auth.actors import Actor, ActorKind
from opsplane.auth.capabilities import Capability
from opsplane.auth.models import BreakGlass, PlatformUser, SystemSession
from opsplane.db import new_id
from opsplane.errors import Conflict, OpsplaneError
from opsplane.outbox import Kind, Severity

MAX_MINUTES = 60
MAX_REASON = 500
BATCH = 100
SEVERITIES = {Kind.BREAK_GLASS_STARTED: Severity.CRITICAL, Kind.BREAK_GLASS_ENDED: Severity.INFO}

ENTRY = frozenset({Capability.SYSTEM_ACCESS, Capability.BREAK_GLASS})
# Nobody uses an emergency to make it last, or to keep it quiet.
WITHHELD = frozenset({Capability.USERS_MANAGE, Capability.ALERTS_MANAGE})


class BreakGlassActive(Conflict):
    """The session is in an emergency already; it cannot be made longer, only ended and begun again."""

    code = "break_glass_active"

    def __init__(self, ends_at: object) -> None:
        super().__init__(f"Break-glass is on until {ends_at}; end it before you begin another.")


class BreakGlassReasonRequired(OpsplaneError):
    """No emergency without a sentence that says why."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "reason_required"

    def __init__(self) -> None:
        super().__init__(f"Say why in 1 to {MAX_REASON} characters; it is shown to everybody.")


def capabilities(owned: AbstractSet[str], lendable: AbstractSet[str]) -> frozenset[str]:
    """What an operator may do in an emergency: all that can be lent, but neither accounts nor alerts.

    The right to be there at all is never lent: whoever loses it has no emergency any more.
    """
    lent = lendable - ENTRY if owned >= ENTRY else frozenset()
    return frozenset(owned | lent) - WITHHELD


async def current(session: AsyncSession, session_id: uuid.UUID) -> BreakGlass | None:
    """The emergency of a session at this moment of the database's clock."""
    return await session.scalar(select(BreakGlass).where(BreakGlass.session_id == session_id, _on()))


async def begin(
    session: AsyncSession, of: SystemSession, *, reason: str, minutes: int = MAX_MINUTES, by: Actor
) -> BreakGlass:
    """Enter an emergency that ends by itself; audited and told to the alert channels.

    Raises:
        MissingCapability: 403.
        BreakGlassReasonRequired: 422.
        BreakGlassActive: 409.
    """
    by.require(Capability.BREAK_GLASS)
    if not 1 <= len(reason := reason.strip()) <= MAX_REASON:
        raise BreakGlassReasonRequired
    await _end_overdue(session, BreakGlass.session_id == of.id)
    begun: BreakGlass | None = await session.scalar(
        insert(BreakGlass)
        .values(
            id=new_id(),
            session_id=of.id,
            user_id=of.user_id,
            reason=reason,
            ends_at=func.clock_timestamp() + timedelta(minutes=min(minutes, MAX_MINUTES)),
        )
        .on_conflict_do_nothing()
        .returning(BreakGlass)
    )
    if begun is None:
        active = await current(session, of.id)
        raise BreakGlassActive(active.ends_at if active else "a moment ago")
    await _tell(session, Kind.BREAK_GLASS_STARTED, begun, by=replace(by, break_glass_id=begun.id))
    return begun


async def end(session: AsyncSession, of: SystemSession, *, by: Actor) -> None:
    """End the session's emergency, if it has one."""
    for emergency in await _open(session, BreakGlass.session_id == of.id):
        emergency.ended_at = await session.scalar(select(func.least(func.clock_timestamp(), emergency.ends_at)))
        await session.flush()
        await _tell(session, Kind.BREAK_GLASS_ENDED, emergency, by=by)


async def end_overdue(session: AsyncSession) -> None:
    """Mark emergencies whose time is up, so that their end is on record and told; they had ended by themselves."""
    await _end_overdue(session, BreakGlass.ended_at.is_(None))


async def _end_overdue(session: AsyncSession, which: ColumnElement[bool]) -> None:
    for emergency in await _open(session, which & (BreakGlass.ends_at <= func.clock_timestamp())):
        emergency.ended_at = emergency.ends_at
        await session.flush()
        await _tell(session, Kind.BREAK_GLASS_ENDED, emergency, by=await _actor(session, emergency))


async def _open(session: AsyncSession, which: ColumnElement[bool]) -> list[BreakGlass]:
    found = await session.scalars(
        select(BreakGlass).where(which, BreakGlass.ended_at.is_(None)).with_for_update().limit(BATCH)
    )
    return list(found)


def _on() -> ColumnElement[bool]:
    return BreakGlass.ended_at.is_(None) & (BreakGlass.ends_at > func.clock_timestamp())


async def _actor(session: AsyncSession, emergency: BreakGlass) -> Actor:
    email = await session.scalar(select(PlatformUser.email).where(PlatformUser.id == emergency.user_id))
    return Actor(kind=ActorKind.PLATFORM_USER, display=email or "?", id=emergency.user_id, break_glass_id=emergency.id)


async def _tell(session: AsyncSession, kind: Kind, emergency: BreakGlass, *, by: Actor) -> None:
    ends_at = emergency.ends_at.isoformat()
    await audit.record(
        session, f"platform.{kind}", by=by, subject_type="break_glass", subject_id=emergency.id,
        reason_text=emergency.reason, details={"ends_at": ends_at},
    )  # fmt: skip
    # The reason stays here: people write names of customers into it.
    await outbox.emit(session, kind, emergency.id, SEVERITIES[kind], {"who": by.display, "ends_at": ends_at})
