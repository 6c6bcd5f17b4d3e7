"""Signing in: throttled before anything is compared, the same answer and time for every reason to refuse."""

import uuid
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from sqlalchemy import Select, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.audit import log as audit
from opsplane.auth import sessions, totp
from opsplane.auth.actors import Actor, ActorKind
from opsplane.auth.models import AdminSession, PlatformUser, SystemSession, TenantUser
from opsplane.auth.passwords import Passwords
from opsplane.auth.sessions import Client, Opened
from opsplane.auth.throttle import LoginThrottle, Throttle, TooManyAttempts
from opsplane.auth.users import normalise
from opsplane.config import Settings
from opsplane.db import Database
from opsplane.errors import OpsplaneError

SYSTEM, ADMIN = "system", "admin"
SUBJECTS = {SYSTEM: "platform_user", ADMIN: "tenant_user"}
AREAS = {SYSTEM: "platform", ADMIN: "tenant"}

AnyUser = TypeVar("AnyUser", PlatformUser, TenantUser)
AnySession = TypeVar("AnySession", SystemSession, AdminSession)


class InvalidCredentials(OpsplaneError):
    """Unknown or disabled user, wrong password, missing or wrong code; which of these is not told."""

    status, code = HTTPStatus.UNAUTHORIZED, "invalid_credentials"

    def __init__(self) -> None:
        super().__init__("User name, password or one-time code is wrong.")


@dataclass(frozen=True)
class Credentials:
    """What somebody typed, and where."""

    username: str
    password: str
    client: Client
    code: str | None = None


@dataclass(frozen=True)
class SignIn:
    """The door of both planes, with what it takes to judge whoever knocks."""

    db: Database
    settings: Settings
    passwords: Passwords
    logins: LoginThrottle
    codes: Throttle

    async def system(self, given: Credentials, *, replaces: str | None = None) -> Opened[SystemSession]:
        """A platform user's session; the one this browser had before ends.

        Raises:
            TooManyAttempts: 429, before the password was looked at.
            InvalidCredentials: 401.
        """
        judged = await self._recognised(SYSTEM, PlatformUser, given)
        await self._count_code(given, judged.user_id)
        async with self.db.transaction() as tx:
            user = await _unchanged(tx.session, PlatformUser, judged)
            opened = None if user is None else await self._past_the_code(tx.session, user, given, replaces)
        if opened is None:
            raise await self._refused(SYSTEM, given, judged.user_id)
        await self.codes.clear(str(judged.user_id))
        await self._cleared(SYSTEM, given)
        return opened

    async def admin(self, given: Credentials, *, replaces: str | None = None) -> Opened[AdminSession]:
        """A tenant user's session; the one this browser had before ends.

        Raises:
            TooManyAttempts: 429, before the password was looked at.
            InvalidCredentials: 401.
        """
        judged = await self._recognised(ADMIN, TenantUser, given)
        async with self.db.transaction() as tx:
            user = await _unchanged(tx.session, TenantUser, judged)
            opened = (
                None if user is None else await self._opened(tx.session, ADMIN, AdminSession, user, given, replaces)
            )
        if opened is None:
            raise await self._refused(ADMIN, given, judged.user_id)
        await self._cleared(ADMIN, given)
        return opened

    async def recheck(self, plane: str, user: PlatformUser | TenantUser, given: Credentials) -> None:
        """Have a signed-in user type the password again, throttled like a login.

        Raises:
            TooManyAttempts: 429.
            InvalidCredentials: 401.
        """
        await self._throttled(plane, given)
        if not (await self.passwords.verify(given.password, user.password_hash)).right:
            raise await self._refused(plane, given, user.id)
        await self._cleared(plane, given)

    async def _recognised(
        self, plane: str, kind: type[PlatformUser] | type[TenantUser], given: Credentials
    ) -> "_Judged":
        await self._throttled(plane, given)
        async with self.db.reading() as session:
            kept = (await session.execute(_kept(kind, given.username))).one()
        verdict = await self.passwords.verify(given.password, None if kept.disabled_at else kept.password_hash)
        if not verdict.right:
            raise await self._refused(plane, given, kept.id)
        return _Judged(kept.id, kept.password_hash, verdict.rehashed)

    async def _count_code(self, given: Credentials, user_id: uuid.UUID) -> None:
        """Whoever has guessed too many codes hears no more than that something is wrong: the password was right."""
        if given.code is None:
            return
        try:
            await self.codes.hit(str(user_id))
        except TooManyAttempts:
            await self._record_failure(SYSTEM, "login_throttled", given, user_id)
            raise InvalidCredentials from None

    async def _past_the_code(
        self, session: AsyncSession, user: PlatformUser, given: Credentials, replaces: str | None
    ) -> Opened[SystemSession] | None:
        enrolled = user.totp_confirmed_at is not None
        if enrolled and (given.code is None or not await totp.accept(session, self.settings, user, given.code)):
            return None
        opened = await self._opened(session, SYSTEM, SystemSession, user, given, replaces)
        opened.row.second_factor = enrolled
        return opened

    async def _opened(
        self, session: AsyncSession, plane: str, kind: type[AnySession], user: PlatformUser | TenantUser,
        given: Credentials, replaces: str | None,
    ) -> Opened[AnySession]:  # fmt: skip
        if replaces and (before := await sessions.find(session, self.settings, kind, replaces)):
            await sessions.end(session, kind, before.id)
        opened = await sessions.begin(session, self.settings, kind, user.id, given.client)
        await _record(session, plane, "login", given, user_id=user.id, by=_actor(plane, user))
        return opened

    async def _throttled(self, plane: str, given: Credentials) -> None:
        try:
            await self.logins.hit(plane, given.client.address, given.username)
        except TooManyAttempts:
            if await self.logins.first_refusal(plane, given.client.address, given.username):
                await self._record_failure(plane, "login_throttled", given, None)
            raise

    async def _cleared(self, plane: str, given: Credentials) -> None:
        await self.logins.clear(plane, given.client.address, given.username)

    async def _refused(self, plane: str, given: Credentials, user_id: uuid.UUID | None) -> InvalidCredentials:
        await self._record_failure(plane, "login_failed", given, user_id)
        return InvalidCredentials()

    async def _record_failure(self, plane: str, act: str, given: Credentials, user_id: uuid.UUID | None) -> None:
        nobody = Actor(kind=ActorKind.ANONYMOUS, display=given.client.address)
        async with self.db.transaction() as tx:
            await _record(tx.session, plane, act, given, user_id=user_id, by=nobody)


@dataclass(frozen=True)
class _Judged:
    """Whose password was right, as of which hash, and its new hash if that was of weaker parameters."""

    user_id: uuid.UUID
    password_hash: str
    rehashed: str | None


async def _unchanged(session: AsyncSession, kind: type[AnyUser], judged: _Judged) -> AnyUser | None:
    """The user, locked; none if they were disabled or got another password while theirs was being judged."""
    user = await session.scalar(
        select(kind)
        .where(kind.id == judged.user_id, kind.disabled_at.is_(None), kind.password_hash == judged.password_hash)
        .with_for_update()
    )
    if user is not None and judged.rehashed is not None:
        user.password_hash = judged.rehashed
    return user


def _actor(plane: str, user: PlatformUser | TenantUser) -> Actor:
    kind = ActorKind.PLATFORM_USER if plane == SYSTEM else ActorKind.TENANT_USER
    return Actor(kind=kind, display=user.email, id=user.id)


async def _record(
    session: AsyncSession, plane: str, act: str, given: Credentials, *, user_id: uuid.UUID | None, by: Actor
) -> None:
    # A name that nobody has is not kept: people type their password into the wrong field.
    await audit.record(
        session, f"{AREAS[plane]}.auth.{act}", by=by, plane=plane, subject_type=SUBJECTS[plane], subject_id=user_id,
        details={
            "username": "(unknown)" if user_id is None else normalise(given.username),
            "address": given.client.address,
            "user_agent": given.client.user_agent[: sessions.MAX_USER_AGENT],
        },
    )  # fmt: skip


def _kept(kind: type[PlatformUser] | type[TenantUser], username: str) -> Select[*tuple[Any, ...]]:
    """One row for everybody, also for whom there is none: what is fetched and built takes the same time."""
    somebody = select(literal(1).label("one")).subquery()
    return (
        select(kind.id, kind.password_hash, kind.disabled_at)
        .select_from(somebody)
        .outerjoin(kind, kind.email == normalise(username))
    )
