"""Server-side sessions: the browser holds 256 random bits, the database their SHA-256, and ending one is at once."""

import hashlib
import secrets
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.auth.models import AdminSession, BreakGlass, SystemSession
from opsplane.config import Settings

TOUCH_AFTER = timedelta(seconds=10)  # a page makes several requests; one of them is enough to stay awake
MAX_USER_AGENT = 300

AnySession = TypeVar("AnySession", SystemSession, AdminSession)


@dataclass(frozen=True)
class Client:
    """Where somebody signs in from."""

    address: str
    user_agent: str


@dataclass(frozen=True)
class Opened(Generic[AnySession]):
    """A new session and its secret, which exists only here and in the cookie."""

    row: AnySession
    secret: str


async def begin(
    session: AsyncSession, settings: Settings, kind: type[AnySession], user_id: uuid.UUID, client: Client, **facts: Any
) -> Opened[AnySession]:
    """A session that ends after its plane's absolute time, or earlier when idle."""
    secret = secrets.token_urlsafe(32)
    _, absolute = _lifetime(settings, kind)
    row = kind(
        user_id=user_id,
        secret_hash=_hash(secret),
        expires_at=await session.scalar(select(func.clock_timestamp() + absolute)),
        client_address=client.address,
        user_agent=client.user_agent[:MAX_USER_AGENT],
        **facts,
    )
    session.add(row)
    await session.flush()
    return Opened(row, secret)


async def find(
    session: AsyncSession, settings: Settings, kind: type[AnySession], secret: str, *, used: bool = True
) -> AnySession | None:
    """The session with this secret, if it is neither over, idle for too long nor ended; does it count as `used`?"""
    row = await session.scalar(select(kind).where(kind.secret_hash == _hash(secret), alive(settings, kind)))
    if row is not None and used:
        await _touch(session, kind, row.id)
    return row


async def exists(
    session: AsyncSession, settings: Settings, kind: type[SystemSession] | type[AdminSession], secret: str
) -> bool:
    """Whether such a session is alive; looking does not keep it so."""
    found = select(kind.id).where(kind.secret_hash == _hash(secret), alive(settings, kind))
    return await session.scalar(found) is not None


async def end(session: AsyncSession, kind: type[AnySession], session_id: uuid.UUID) -> None:
    """End one session; its next request is refused."""
    await _end(session, kind, kind.id == session_id)


async def end_all(session: AsyncSession, kind: type[AnySession], user_id: uuid.UUID) -> None:
    """End every session of a user."""
    await _end(session, kind, kind.user_id == user_id)


def alive(settings: Settings, kind: type[SystemSession] | type[AdminSession]) -> ColumnElement[bool]:
    """Not ended, not over, not idle for too long, all by the database's clock."""
    idle, _ = _lifetime(settings, kind)
    now = func.clock_timestamp()
    return kind.revoked_at.is_(None) & (kind.expires_at > now) & (kind.last_seen_at > now - idle)


async def _end(session: AsyncSession, kind: type[AnySession], which: ColumnElement[bool]) -> None:
    await session.execute(
        update(kind).where(which, kind.revoked_at.is_(None)).values(revoked_at=func.clock_timestamp())
    )
    if issubclass(kind, SystemSession):
        await _end_emergencies(session)


async def _end_emergencies(session: AsyncSession) -> None:
    """An emergency is its session's; the sweep puts its end on record."""
    ended = select(SystemSession.id).where(
        SystemSession.id == BreakGlass.session_id, SystemSession.revoked_at.is_not(None)
    )
    now = func.clock_timestamp()
    await session.execute(
        update(BreakGlass)
        .where(BreakGlass.ended_at.is_(None), BreakGlass.ends_at > now, ended.exists())
        .values(ends_at=now)
        .execution_options(synchronize_session=False)
    )


async def _touch(session: AsyncSession, kind: type[AnySession], session_id: uuid.UUID) -> None:
    stale = kind.last_seen_at < func.clock_timestamp() - TOUCH_AFTER
    await session.execute(update(kind).where(kind.id == session_id, stale).values(last_seen_at=func.clock_timestamp()))


def _lifetime(settings: Settings, kind: type[SystemSession] | type[AdminSession]) -> tuple[timedelta, timedelta]:
    if issubclass(kind, SystemSession):
        return timedelta(seconds=settings.system_idle_s), timedelta(seconds=settings.system_session_s)
    return timedelta(seconds=settings.admin_idle_s), timedelta(seconds=settings.admin_session_s)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
