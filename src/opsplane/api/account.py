"""An operator's own account: signing in and out, the authenticator, the password."""

import asyncio
import io
from datetime import datetime
from typing import Annotated

import segno
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, SecretStr

from opsplane.access import accounts
from opsplane.access.operators import Operator, Person, SessionRequired
from opsplane.access.sign_in import SYSTEM, Credentials, InvalidCredentials
from opsplane.api import problems
from opsplane.api.break_glass import BreakGlassOut, present
from opsplane.api.cookies import SessionCookie
from opsplane.api.deps import TheClient, TheDoorman, ThePlane
from opsplane.api.rights import AnOperator, Anybody, APerson
from opsplane.api.schemas import Body, CodeText, LoginIn, PasswordText
from opsplane.auth import passwords, totp
from opsplane.auth.models import SystemSession
from opsplane.auth.sessions import Client, Opened
from opsplane.auth.throttle import TooManyAttempts
from opsplane.auth.tokens import InvalidToken
from opsplane.auth.totp import AlreadyEnrolled, NoEnrolment, WrongCode
from opsplane.errors import InvalidInput, ServiceUnavailable
from opsplane.runbooks.service import Plane

ALWAYS = (InvalidToken, SessionRequired, ServiceUnavailable)
RETYPED = (InvalidCredentials, TooManyAttempts)

account = APIRouter()


class Picture(Response):
    """An SVG picture."""

    media_type = "image/svg+xml"


class SystemLoginIn(LoginIn):
    """Who signs in to the system plane."""

    totp: Annotated[CodeText | None, Field(description="One-time or recovery code, once enrolled.")] = None


class PasswordIn(Body):
    """The password, typed once more."""

    password: PasswordText


class NewPasswordIn(Body):
    """The old password and the new."""

    current: PasswordText
    new: PasswordText


class CodeIn(Body):
    """A one-time code."""

    code: CodeText


class MeOut(BaseModel):
    """Who is signed in, and what they may do at this moment."""

    kind: str
    display: str
    name: str | None
    capabilities: list[str]
    second_factor: bool
    must_enrol: bool
    session_expires_at: datetime | None
    break_glass: BreakGlassOut | None


class EnrolmentOut(BaseModel):
    """What an authenticator needs; shown once."""

    secret: str
    uri: str


class RecoveryCodesOut(BaseModel):
    """Codes for a lost authenticator, each for one login; shown once."""

    recovery_codes: list[str]


@account.post(
    "/login", status_code=204, dependencies=[Anybody], responses=problems.responses(*RETYPED, ServiceUnavailable)
)
async def log_in(
    body: SystemLoginIn, doorman: TheDoorman, client: TheClient, plane: ThePlane, request: Request
) -> Response:
    """Sign in; the answer sets the session cookie."""
    code = body.totp.get_secret_value() if body.totp else None
    given = Credentials(body.username, body.password.get_secret_value(), client, code)
    before = SessionCookie.of(SYSTEM, plane.settings).read(request)
    return _with_cookie(plane, await doorman.system(given, replaces=before), Response(status_code=204))


@account.post("/logout", status_code=204, responses=problems.responses(*ALWAYS))
async def log_out(who: APerson, plane: ThePlane) -> Response:
    """End this session."""
    async with plane.db.transaction() as tx:
        await accounts.sign_out(tx.session, who)
    response = Response(status_code=204)
    SessionCookie.of(SYSTEM, plane.settings).drop(response)
    return response


@account.get("/me", responses=problems.responses(*ALWAYS))
async def me(who: AnOperator) -> MeOut:
    """Who is signed in."""
    return _me(who)


@account.post("/totp", responses=problems.responses(*ALWAYS, *RETYPED, AlreadyEnrolled))
async def begin_enrolment(
    body: PasswordIn, who: APerson, doorman: TheDoorman, client: TheClient, plane: ThePlane
) -> EnrolmentOut:
    """Get a new authenticator's secret; confirm it with a code."""
    await doorman.recheck(SYSTEM, who.user, _retyped(who, body.password, client))
    async with plane.db.transaction() as tx:
        user, secret = await accounts.begin_enrolment(tx.session, plane.settings, who)
    return EnrolmentOut(secret=secret, uri=totp.uri(user, secret))


@account.get("/totp/qr", response_class=Picture, responses=problems.responses(*ALWAYS, NoEnrolment))
async def enrolment_qr_code(who: APerson, plane: ThePlane) -> Picture:
    """The secret of an enrolment that waits for its code, as an SVG picture."""
    address = totp.pending_uri(plane.settings, who.user)
    picture = io.BytesIO()
    segno.make(address, error="m").save(
        picture, kind="svg", scale=5, border=4, light="#fff", svgclass=None, lineclass=None
    )
    return Picture(picture.getvalue())


@account.post("/totp/confirm", responses=problems.responses(*ALWAYS, TooManyAttempts, AlreadyEnrolled, WrongCode))
async def confirm_enrolment(
    body: CodeIn, who: APerson, doorman: TheDoorman, client: TheClient, plane: ThePlane, response: Response
) -> RecoveryCodesOut:
    """Confirm the authenticator; the session is renewed, all others end."""
    await doorman.codes.hit(str(who.user.id))
    async with plane.db.transaction() as tx:
        code = body.code.get_secret_value()
        enrolled = await accounts.confirm_enrolment(tx.session, plane.settings, who, code, client)
    await doorman.codes.clear(str(who.user.id))
    _with_cookie(plane, enrolled.opened, response)
    return RecoveryCodesOut(recovery_codes=enrolled.recovery_codes)


@account.post("/password", status_code=204, responses=problems.responses(*ALWAYS, *RETYPED, InvalidInput))
async def change_password(
    body: NewPasswordIn, who: APerson, doorman: TheDoorman, client: TheClient, plane: ThePlane
) -> Response:
    """Change the password; the session is renewed, all others end."""
    await doorman.recheck(SYSTEM, who.user, _retyped(who, body.current, client))
    new = body.new.get_secret_value()
    await asyncio.to_thread(passwords.require_strong, new, who.user.email, who.user.name)
    hashed = await doorman.passwords.hash(new)
    async with plane.db.transaction() as tx:
        opened = await accounts.change_password(tx.session, plane.settings, who, hashed, client)
    return _with_cookie(plane, opened, Response(status_code=204))


def _me(who: Operator) -> MeOut:
    actor, session = who.actor, who.session
    return MeOut(
        kind=actor.kind,
        display=actor.display,
        name=who.user and who.user.name,
        capabilities=sorted(actor.capabilities or ()),
        second_factor=session is not None and session.second_factor,
        must_enrol=who.must_enrol,
        session_expires_at=session and session.expires_at,
        break_glass=who.emergency and present(who.emergency),
    )


def _retyped(who: Person, password: SecretStr, client: Client) -> Credentials:
    return Credentials(who.user.email, password.get_secret_value(), client)


def _with_cookie(plane: Plane, opened: Opened[SystemSession], response: Response) -> Response:
    SessionCookie.of(SYSTEM, plane.settings).put(response, opened.secret)
    return response
