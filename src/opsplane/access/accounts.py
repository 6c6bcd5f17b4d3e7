"""What operators do to their own account; each change ends every session of theirs and begins a new one."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.access import emergencies
from opsplane.access.operators import Person
from opsplane.access.sign_in import InvalidCredentials
from opsplane.audit import log as audit
from opsplane.auth import sessions, totp, users
from opsplane.auth.models import PlatformUser, SystemSession
from opsplane.auth.sessions import Client, Opened
from opsplane.config import Settings

ENROLLED, PASSWORD_CHANGED, LOGOUT = (f"platform.auth.{act}" for act in ("totp_enrolled", "password_changed", "logout"))


@dataclass(frozen=True)
class Enrolled:
    """Fresh recovery codes, shown once, and the session that goes on."""

    recovery_codes: list[str]
    opened: Opened[SystemSession]


async def begin_enrolment(session: AsyncSession, settings: Settings, person: Person) -> tuple[PlatformUser, str]:
    """A new authenticator's secret; nothing is asked of the user until a code of it is confirmed.

    Raises:
        AlreadyEnrolled: 409.
    """
    user = await _locked(session, settings, person)
    return user, await totp.enrol(session, settings, user)


async def confirm_enrolment(
    session: AsyncSession, settings: Settings, person: Person, code: str, client: Client
) -> Enrolled:
    """From now on the user needs a code to sign in.

    Raises:
        AlreadyEnrolled: 409.
        WrongCode: 422.
    """
    user = await _locked(session, settings, person)
    codes = await totp.confirm(session, settings, user, code)
    await _record(session, ENROLLED, person)
    return Enrolled(codes, await _renewed(session, settings, person, client, second_factor=True))


async def change_password(
    session: AsyncSession, settings: Settings, person: Person, password_hash: str, client: Client
) -> Opened[SystemSession]:
    """Keep the hash of a new password."""
    await users.set_password(session, await _locked(session, settings, person), password_hash)
    await _record(session, PASSWORD_CHANGED, person)
    return await _renewed(session, settings, person, client, second_factor=person.session.second_factor)


async def sign_out(session: AsyncSession, person: Person) -> None:
    """End the session, and with it its emergency."""
    await emergencies.end(session, person.session, by=person.actor)
    await sessions.end(session, SystemSession, person.session.id)
    await _record(session, LOGOUT, person)


async def _renewed(
    session: AsyncSession, settings: Settings, person: Person, client: Client, *, second_factor: bool
) -> Opened[SystemSession]:
    await emergencies.end(session, person.session, by=person.actor)
    await sessions.end_all(session, SystemSession, person.user.id)
    return await sessions.begin(session, settings, SystemSession, person.user.id, client, second_factor=second_factor)


async def _locked(session: AsyncSession, settings: Settings, person: Person) -> PlatformUser:
    """The user's row, unless session or password ended since the request came in: an owner may just have reset them.

    Raises:
        InvalidCredentials: 401.
    """
    user = await session.scalar(select(PlatformUser).where(PlatformUser.id == person.user.id).with_for_update())
    ours = (SystemSession.id == person.session.id) & sessions.alive(settings, SystemSession)
    still = await session.scalar(select(SystemSession.id).where(ours))
    if user is None or still is None or user.disabled_at or user.password_hash != person.user.password_hash:
        raise InvalidCredentials
    return user


async def _record(session: AsyncSession, action: str, person: Person) -> None:
    await audit.record(
        session, action, by=person.actor, subject_type="platform_user", subject_id=person.user.id, source="api"
    )
