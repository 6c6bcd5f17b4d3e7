"""The login pages: shells whose script calls the JSON endpoint of the same address."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from opsplane.api.rights import Anybody
from opsplane.pages import rendering
from opsplane.pages.shell import Liking


def login(plane: str) -> APIRouter:
    """The login page of `system` or `admin`; the gate lets only navigations through to it."""
    router = APIRouter()

    @router.get("/login", dependencies=[Anybody])
    async def login_page(request: Request) -> HTMLResponse:
        return rendering.page("login.html", plane=plane, liking=Liking.of(request.cookies))

    return router
