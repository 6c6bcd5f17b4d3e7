"""Signing in: throttled before anything is compared, the same answer and time for every reason to refuse."""

import uuid
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from sqlalchemy import Select, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.audit import log as audit
from opsplane.auth import sessions, totp
from opsplane.auth.actors import Actor, ActorKind
from opsplane.auth.models import AdminSession, PlatformUser, SystemSession, TenantUser
from opsplane.auth.passwords import Passwords, Verdict
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
        user, verdict = await self._recognised(SYSTEM, PlatformUser, given)
        enrolled = user.totp_confirmed_at is not None
        async with self.db.transaction() as tx:
            known = not enrolled or await self._code_fits(tx.session, user, given)
            opened = await self._opened(tx.session, SYSTEM, SystemSession, user, given, replaces) if known else None
            if opened is not None:
                opened.row.second_factor = enrolled
                await _rehash(tx.session, user, verdict)
        if opened is None:
            raise await self._refused(SYSTEM, given, user.id)
        await self._cleared(SYSTEM, given)
        return opened

    async def admin(self, given: Credentials, *, replaces: str | None = None) -> Opened[AdminSession]:
        """A tenant user's session; the one this browser had before ends.

        Raises:
            TooManyAttempts: 429, before the password was looked at.
            InvalidCredentials: 401.
        """
        user, verdict = await self._recognised(ADMIN, TenantUser, given)
        async with self.db.transaction() as tx:
            opened = await self._opened(tx.session, ADMIN, AdminSession, user, given, replaces)
            await _rehash(tx.session, user, verdict)
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

    async def _recognised(self, plane: str, kind: type[AnyUser], given: Credentials) -> tuple[AnyUser, Verdict]:
        await self._throttled(plane, given)
        async with self.db.reading() as session:
            kept = (await session.execute(_kept(kind, given.username))).one()
        verdict = await self.passwords.verify(given.password, None if kept.disabled_at else kept.password_hash)
        if not verdict.right:
            raise await self._refused(plane, given, kept.id)
        async with self.db.reading() as session:
            return (await session.scalars(select(kind).where(kind.id == kept.id))).one(), verdict

    async def _code_fits(self, session: AsyncSession, user: PlatformUser, given: Credentials) -> bool:
        if given.code is None:
            return False
        await self.codes.hit(str(user.id))
        if fits := await totp.accept(session, self.settings, user, given.code):
            await self.codes.clear(str(user.id))
        return fits

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


async def _rehash(session: AsyncSession, user: PlatformUser | TenantUser, verdict: Verdict) -> None:
    if verdict.rehashed is not None:
        kind = type(user)
        await session.execute(update(kind).where(kind.id == user.id).values(password_hash=verdict.rehashed))


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
