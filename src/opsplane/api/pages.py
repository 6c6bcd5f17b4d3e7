"""The login pages: thin shells whose script calls the JSON endpoint of the same address."""

from fastapi import APIRouter
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from opsplane import data
from opsplane.api.rights import Anybody

TEMPLATES = Environment(
    loader=FileSystemLoader(data.ROOT / "templates"), autoescape=select_autoescape(), undefined=StrictUndefined
)


def login(plane: str) -> APIRouter:
    """The login page of `system` or `admin`; the gate lets only navigations through to it."""
    router = APIRouter(include_in_schema=False)
    page = TEMPLATES.get_template("login.html").render(plane=plane)

    @router.get("/login", dependencies=[Anybody], response_class=HTMLResponse)
    async def login_page() -> HTMLResponse:
        return HTMLResponse(page)

    return router
