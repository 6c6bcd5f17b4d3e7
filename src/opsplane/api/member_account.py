"""A tenant user's own account: signing in and out of the admin plane."""

from datetime import datetime

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from opsplane.access.sign_in import ADMIN, Credentials, InvalidCredentials
from opsplane.api import problems
from opsplane.api.cookies import SessionCookie
from opsplane.api.deps import TheClient, TheDoorman, ThePlane
from opsplane.api.rights import Anybody, ATenantUser
from opsplane.api.schemas import LoginIn
from opsplane.audit import log as audit
from opsplane.auth import sessions
from opsplane.auth.actors import Actor, ActorKind
from opsplane.auth.models import AdminSession
from opsplane.auth.throttle import TooManyAttempts
from opsplane.errors import ServiceUnavailable

LOGOUT = "tenant.auth.logout"

member_account = APIRouter()


class MemberOut(BaseModel):
    """Who is signed in."""

    email: str
    name: str
    session_expires_at: datetime


@member_account.post(
    "/login",
    status_code=204,
    dependencies=[Anybody],
    responses=problems.responses(InvalidCredentials, TooManyAttempts, ServiceUnavailable),
)
async def log_in(body: LoginIn, doorman: TheDoorman, client: TheClient, plane: ThePlane, request: Request) -> Response:
    """Sign in; the answer sets the session cookie."""
    given = Credentials(body.username, body.password.get_secret_value(), client)
    cookie = SessionCookie.of(ADMIN, plane.settings)
    opened = await doorman.admin(given, replaces=cookie.read(request))
    response = Response(status_code=204)
    cookie.put(response, opened.secret)
    return response


@member_account.post("/logout", status_code=204, responses=problems.responses(ServiceUnavailable))
async def log_out(who: ATenantUser, plane: ThePlane) -> Response:
    """End this session."""
    actor = Actor(kind=ActorKind.TENANT_USER, display=who.member.email, id=who.member.id)
    async with plane.db.transaction() as tx:
        await sessions.end(tx.session, AdminSession, who.session.id)
        await audit.record(
            tx.session, LOGOUT, by=actor, plane=ADMIN, subject_type="tenant_user", subject_id=who.member.id
        )
    response = Response(status_code=204)
    SessionCookie.of(ADMIN, plane.settings).drop(response)
    return response


@member_account.get("/me", responses=problems.responses(ServiceUnavailable))
async def me(who: ATenantUser) -> MemberOut:
    """Who is signed in."""
    return MemberOut(email=who.member.email, name=who.member.name, session_expires_at=who.session.expires_at)
