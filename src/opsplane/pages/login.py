"""The login pages: shells whose script calls the JSON endpoint of the same address."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response

from opsplane.access.sign_in import SYSTEM
from opsplane.api.cookies import SessionCookie
from opsplane.api.deps import ThePlane
from opsplane.api.rights import Anybody
from opsplane.auth import sessions
from opsplane.auth.models import AdminSession, SystemSession
from opsplane.pages import rendering
from opsplane.pages.shell import Liking
from opsplane.runbooks.service import Plane

Next = Annotated[str, Query(alias="next", description="Where to go then.")]


def login(plane_name: str, *, home: str) -> APIRouter:
    """The login page of `system` or `admin`; whoever is signed in already goes on to where they wanted."""
    router = APIRouter()

    @router.get("/login", dependencies=[Anybody])
    async def login_page(
        request: Request, plane: ThePlane, wanted: Annotated[str, Query(alias="next")] = ""
    ) -> Response:
        if await _is_signed_in(request, plane, plane_name):
            ours = wanted.startswith(f"/{plane_name}/") and not wanted.startswith(f"/{plane_name}/login")
            return RedirectResponse(wanted if ours else home, HTTPStatus.SEE_OTHER)
        return rendering.page("login.html", plane=plane_name, home=home, liking=Liking.of(request.cookies))

    return router


async def _is_signed_in(request: Request, plane: Plane, plane_name: str) -> bool:
    """Whether there is a session that can do anything: one that must still enrol an authenticator does it here."""
    secret = SessionCookie.of(plane_name, plane.settings).read(request)
    if secret is None:
        return False
    async with plane.db.reading() as session:
        if plane_name != SYSTEM:
            return await sessions.exists(session, plane.settings, AdminSession, secret)
        row = await sessions.find(session, plane.settings, SystemSession, secret, used=False)
        return row is not None and (row.second_factor or not plane.settings.second_factor_required)
