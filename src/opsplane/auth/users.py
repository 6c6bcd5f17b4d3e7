"""Platform users and what they may do."""

import re

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.auth import sessions
from opsplane.auth.actors import Actor, ActorKind
from opsplane.auth.models import PlatformUser, PlatformUserCapability, SystemSession
from opsplane.auth.tokens import capabilities_of
from opsplane.errors import Conflict, InvalidInput, NotFound

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


def normalise(email: str) -> str:
    """The one spelling under which an address is kept."""
    return email.strip().casefold()


def parse_email(text: str) -> str:
    """The address as it is kept.

    Raises:
        InvalidInput: this is none.
    """
    email = normalise(text)
    if not _EMAIL.fullmatch(email) or not email.isprintable():
        raise InvalidInput(f"{email!r} is not an e-mail address.")
    return email


async def create(session: AsyncSession, email: str, *, name: str | None = None) -> PlatformUser:
    """Add a platform user without any capability.

    Raises:
        InvalidInput: this is no e-mail address.
        Conflict: somebody has it.
    """
    email = parse_email(email)
    inserted: PlatformUser | None = await session.scalar(
        insert(PlatformUser)
        .values(email=email, name=name or email.split("@")[0])
        .on_conflict_do_nothing(index_elements=["email"])
        .returning(PlatformUser)
    )
    if inserted is None:
        raise Conflict(f"There is a platform user {email} already.")
    return inserted


async def find(session: AsyncSession, email: str) -> PlatformUser:
    """The platform user with this address.

    Raises:
        NotFound: there is none.
    """
    user = await session.scalar(select(PlatformUser).where(PlatformUser.email == normalise(email)))
    if user is None:
        raise NotFound(f"There is no platform user {normalise(email)}; add one: opsplane users create EMAIL.")
    return user


async def grant(session: AsyncSession, user: PlatformUser, capabilities: frozenset[str]) -> None:
    """Allow; effective on the user's next request."""
    for capability in sorted(capabilities):
        await session.execute(
            insert(PlatformUserCapability)
            .values(user_id=user.id, capability=capability)
            .on_conflict_do_nothing()
        )  # fmt: skip


async def revoke(session: AsyncSession, user: PlatformUser, capabilities: frozenset[str]) -> None:
    """Take back; effective on the user's next request, their tokens included."""
    await session.execute(
        delete(PlatformUserCapability).where(
            PlatformUserCapability.user_id == user.id, PlatformUserCapability.capability.in_(capabilities)
        )
    )


async def disable(session: AsyncSession, user: PlatformUser) -> None:
    """Shut a user out, their tokens included; what they did stays on record."""
    user.disabled_at = await session.scalar(select(func.now()))
    await sessions.end_all(session, SystemSession, user.id)


def enable(user: PlatformUser) -> None:
    """Let a disabled user in again, with the capabilities they had."""
    user.disabled_at = None


async def set_password(session: AsyncSession, user: PlatformUser, password_hash: str) -> None:
    """Keep a new password; every session of the user ends."""
    user.password_hash = password_hash
    await session.flush()
    await sessions.end_all(session, SystemSession, user.id)


async def act_as(session: AsyncSession, email: str) -> Actor:
    """The actor for `--as EMAIL`.

    Raises:
        NotFound: there is no such platform user.
        InvalidInput: the user is disabled.
    """
    user = await find(session, email)
    if user.disabled_at is not None:
        raise InvalidInput(f"{user.email} is disabled and cannot act.")
    capabilities = await capabilities_of(session, user.id)
    return Actor(kind=ActorKind.PLATFORM_USER, display=user.email, id=user.id, capabilities=capabilities)
