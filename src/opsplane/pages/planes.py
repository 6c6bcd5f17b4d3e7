"""An app of pages beside an app of JSON: navigations get pages, everything else gets JSON, at the same addresses."""

import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from opsplane.api import problems
from opsplane.api.navigation import is_navigation
from opsplane.errors import OpsplaneError
from opsplane.pages import rendering
from opsplane.pages.shell import Shell


class ByAccept:
    """Hands navigations to the pages of a plane, and everything else to its API."""

    def __init__(self, pages: ASGIApp, api: ASGIApp) -> None:
        self._pages, self._api = pages, api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand one request on."""
        app = self._pages if scope["type"] == "http" and is_navigation(scope) else self._api
        await app(scope, receive, send)


def build(*routers: APIRouter, shell: Callable[[Request], Awaitable[Shell]]) -> FastAPI:
    """The pages of one plane; whatever is refused is a page too."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    for router in routers:
        app.include_router(router)

    async def refusal(request: Request, error: Exception) -> Response:
        nowhere = isinstance(error, RequestValidationError) and any(one["loc"][0] == "path" for one in error.errors())
        answer = problems.not_found() if nowhere else problems.of(request, error)
        known = hasattr(request.state, "operator") or hasattr(request.state, "member")
        frame = await shell(request) if known else None
        if frame and frame.places and frame.path.strip("/") == frame.plane:
            return RedirectResponse(frame.places[0].path, HTTPStatus.SEE_OTHER)
        shown = rendering.page("error.html", answer.status_code, shell=frame, problem=json.loads(bytes(answer.body)))
        shown.headers.update({name: value for name, value in answer.headers.items() if name == "retry-after"})
        return shown

    for kind in (OpsplaneError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, refusal)
    return app
