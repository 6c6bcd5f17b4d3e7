"""One-time codes (RFC 6238: 6 digits, 30 s) and the recovery codes that stand in for them."""

import base64
import hashlib
import hmac
import secrets
import uuid
from http import HTTPStatus

import pyotp
from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy import delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane import keys
from opsplane.auth.models import PlatformUser, RecoveryCode
from opsplane.config import Settings
from opsplane.errors import Conflict, NotFound, OpsplaneError

ISSUER = "opsplane"
STEP_S = 30
RECOVERY_CODES = 10


class WrongCode(OpsplaneError):
    """The code does not fit, or was used before."""

    status, code = HTTPStatus.UNPROCESSABLE_ENTITY, "wrong_code"

    def __init__(self) -> None:
        super().__init__("This code is not the current one, or was used already; wait for the next and type that.")


class AlreadyEnrolled(Conflict):
    """The user has an authenticator, and must not lose it to whoever finds an open browser."""

    code = "already_enrolled"

    def __init__(self) -> None:
        super().__init__("There is an authenticator already; to change it: opsplane users reset-totp EMAIL.")


class NoEnrolment(NotFound):
    """There is no secret that still waits for its first code."""

    code = "no_enrolment"

    def __init__(self) -> None:
        super().__init__("No authenticator waits to be confirmed; begin with POST /system/totp.")


async def enrol(session: AsyncSession, settings: Settings, user: PlatformUser) -> str:
    """Give the user a secret that counts once a code of it is confirmed.

    Raises:
        AlreadyEnrolled: 409.
    """
    if user.totp_confirmed_at is not None:
        raise AlreadyEnrolled
    secret = pyotp.random_base32()
    user.totp_secret = _cipher(settings).encrypt(f"{user.id}:{secret}".encode())
    await session.flush()
    return secret


def uri(user: PlatformUser, secret: str) -> str:
    """What authenticators read from a QR code."""
    return pyotp.TOTP(secret).provisioning_uri(name=user.email, issuer_name=ISSUER)


def pending_uri(settings: Settings, user: PlatformUser) -> str:
    """The same while an enrolment waits for its code; afterwards the secret is never shown again.

    Raises:
        NoEnrolment: 404.
    """
    secret = _secret(settings, user) if user.totp_confirmed_at is None else None
    if secret is None:
        raise NoEnrolment
    return uri(user, secret)


async def confirm(session: AsyncSession, settings: Settings, user: PlatformUser, code: str) -> list[str]:
    """Begin to ask for codes; returns fresh recovery codes, which exist only here.

    Raises:
        AlreadyEnrolled: 409.
        WrongCode: 422.
    """
    if user.totp_confirmed_at is not None:
        raise AlreadyEnrolled
    if not await _accept_code(session, settings, user, code):
        raise WrongCode
    user.totp_confirmed_at = await session.scalar(select(func.clock_timestamp()))
    codes = [_new_recovery_code() for _ in range(RECOVERY_CODES)]
    await session.execute(delete(RecoveryCode).where(RecoveryCode.user_id == user.id))
    await session.execute(insert(RecoveryCode), [{"user_id": user.id, "code_hash": _hash(code)} for code in codes])
    await session.flush()
    return codes


async def accept(session: AsyncSession, settings: Settings, user: PlatformUser, code: str) -> bool:
    """Use up a one-time or recovery code; each is accepted once, however many ask at the same time."""
    code = code.replace(" ", "")
    if code.isdecimal():
        return await _accept_code(session, settings, user, code)
    used = await session.scalar(
        update(RecoveryCode)
        .where(RecoveryCode.user_id == user.id, RecoveryCode.code_hash == _hash(code), RecoveryCode.used_at.is_(None))
        .values(used_at=func.clock_timestamp())
        .returning(RecoveryCode.user_id)
    )
    return used is not None


async def reset(session: AsyncSession, user: PlatformUser) -> None:
    """Forget the authenticator and its recovery codes; the user enrols anew."""
    user.totp_secret = user.totp_confirmed_at = user.totp_last_step = None
    await session.execute(delete(RecoveryCode).where(RecoveryCode.user_id == user.id))
    await session.flush()


async def _accept_code(session: AsyncSession, settings: Settings, user: PlatformUser, code: str) -> bool:
    secret = _secret(settings, user)
    now_s = await session.scalar(select(func.extract("epoch", func.clock_timestamp())))
    if secret is None or now_s is None or (step := _step(secret, code, int(now_s))) is None:
        return False
    newer = or_(PlatformUser.totp_last_step.is_(None), PlatformUser.totp_last_step < step)
    accepted = await session.scalar(
        update(PlatformUser)
        .where(PlatformUser.id == user.id, newer)
        .values(totp_last_step=step)
        .returning(PlatformUser.id)
        .execution_options(synchronize_session=False)
    )
    return accepted is not None


def _step(secret: str, code: str, now_s: int) -> int | None:
    """The step whose code this is; one step of drift is allowed to either side."""
    totp = pyotp.TOTP(secret)
    current = now_s // STEP_S
    fits = [step for step in (current - 1, current, current + 1) if _same(totp.at(step * STEP_S), code)]
    return fits[-1] if fits else None


def _secret(settings: Settings, user: PlatformUser) -> str | None:
    if user.totp_secret is None:
        return None
    try:
        owner, _, secret = _cipher(settings).decrypt(user.totp_secret).decode().partition(":")
    except InvalidToken:
        return None  # OPSPLANE_SECRET_KEY was changed: nobody's authenticator fits any more
    return secret if uuid.UUID(owner) == user.id else None


def _cipher(settings: Settings) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(keys.derived(settings, "totp")))


def _new_recovery_code() -> str:
    letters = base64.b32encode(secrets.token_bytes(10)).decode().lower()
    return "-".join(letters[start : start + 4] for start in range(0, 16, 4))


def _hash(code: str) -> bytes:
    return hashlib.sha256(code.replace("-", "").strip().lower().encode()).digest()


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
