"""Who an operator is at this request: read anew each time, so that whatever is taken back is gone at once."""

import uuid
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from http import HTTPStatus

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.access import emergencies
from opsplane.auth import sessions, tokens
from opsplane.auth.actors import Actor, ActorKind
from opsplane.auth.models import BreakGlass, PlatformUser, SystemSession
from opsplane.config import Settings
from opsplane.db import Database
from opsplane.errors import OpsplaneError


class SessionRequired(OpsplaneError):
    """An API token asks for what only a person at a browser may do."""

    status, code = HTTPStatus.FORBIDDEN, "session_required"

    def __init__(self) -> None:
        super().__init__("An API token cannot do this; sign in as a person.")


class SecondFactorRequired(OpsplaneError):
    """The operator has to enrol an authenticator before anything else."""

    status, code = HTTPStatus.FORBIDDEN, "second_factor_required"

    def __init__(self) -> None:
        super().__init__("Enrol an authenticator first: POST /system/totp, then /system/totp/confirm.")


@dataclass(frozen=True, kw_only=True)
class Operator:
    """Somebody in the system plane, by session or by token."""

    actor: Actor
    user: PlatformUser | None = None
    session: SystemSession | None = None
    emergency: BreakGlass | None = None
    must_enrol: bool = False

    def person(self) -> "Person":
        """The operator as somebody at a browser.

        Raises:
            SessionRequired: it is a token (403).
        """
        if self.user is None or self.session is None:
            raise SessionRequired
        return Person(self.actor, self.user, self.session)


@dataclass(frozen=True)
class Person:
    """An operator with a session."""

    actor: Actor
    user: PlatformUser
    session: SystemSession


async def by_session(
    session: AsyncSession, settings: Settings, secret: str, *, lendable: AbstractSet[str], used: bool = True
) -> Operator | None:
    """The operator of a session; `lendable` is what an emergency may add to their capabilities."""
    row = await sessions.find(session, settings, SystemSession, secret, used=used)
    if row is None:
        return None
    user = await session.scalar(
        select(PlatformUser).where(PlatformUser.id == row.user_id, PlatformUser.disabled_at.is_(None))
    )
    if user is None:
        return None
    emergency = await emergencies.current(session, row.id)
    owned = await tokens.capabilities_of(session, user.id)
    return Operator(
        actor=_actor(user, emergencies.capabilities(owned, lendable) if emergency else owned, emergency),
        user=user,
        session=row,
        emergency=emergency,
        must_enrol=settings.second_factor_required and not row.second_factor,
    )


async def by_token(db: Database, token: str) -> Operator:
    """The operator behind an API token.

    Raises:
        InvalidToken: 401.
    """
    return Operator(actor=await tokens.authenticate(db, token))


def _actor(user: PlatformUser, capabilities: frozenset[str], emergency: BreakGlass | None) -> Actor:
    return Actor(
        kind=ActorKind.PLATFORM_USER,
        display=user.email,
        id=user.id,
        capabilities=capabilities,
        break_glass_id=_id(emergency),
    )


def _id(emergency: BreakGlass | None) -> uuid.UUID | None:
    return emergency.id if emergency else None
