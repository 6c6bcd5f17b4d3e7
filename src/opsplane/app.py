"""The root app: its lifespan owns the connections; the planes are mounted, health stays outside of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, select_autoescape
from starlette.routing import Route
from starlette.types import ASGIApp

from opsplane import data, logs, migrate, runtime
from opsplane.api import problems, system
from opsplane.api.gate import SystemGate
from opsplane.config import Settings
from opsplane.db import new_id
from opsplane.errors import ServiceUnavailable
from opsplane.runbooks.service import Plane
from opsplane.runs import processes, sweeper

READY_TIMEOUT_S = 3.0
TEMPLATES = Environment(loader=FileSystemLoader(data.ROOT / "templates"), autoescape=select_autoescape())


def build(settings: Settings) -> ASGIApp:
    """The whole application for one process; `settings` must name both servers."""
    app = FastAPI(
        title="opsplane", lifespan=_lifespan(settings), docs_url=None, redoc_url=None, openapi_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    problems.install(app)
    app.add_api_route("/healthz", healthz, methods=["GET"])
    app.add_api_route("/readyz", readyz, methods=["GET"])
    app.add_api_route("/", welcome, methods=["GET"], response_class=HTMLResponse)
    app.mount("/static", StaticFiles(directory=data.ROOT / "static"))
    gate = SystemGate(system.build())
    app.mount("/system", gate)
    app.router.routes.append(Route("/system", endpoint=gate))  # a mount does not match its own name
    return app


def _lifespan(settings: Settings) -> Callable[[FastAPI], AbstractAsyncContextManager[dict[str, Any]]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        logs.configure(settings)
        async with runtime.opened(settings, application="opsplane-api") as plane:
            stop = asyncio.Event()
            background = asyncio.gather(
                sweeper.sweep_until(stop, plane.db, plane.queue, settings),
                processes.beat_until(stop, plane.db, new_id(), kind=processes.API, slots=0),
            )
            yield {"plane": plane}
            stop.set()
            await background

    return lifespan


async def healthz() -> dict[str, str]:
    """Whether the process lives."""
    return {"status": "ok"}


async def readyz(request: Request) -> JSONResponse:
    """Whether requests can be served: 503 without a database of this release; Redis may be away."""
    state = await _state(request.state.plane)
    ready = state["database"] == "ok"
    return JSONResponse(
        {"status": "ok" if ready else "unavailable", **state},
        status_code=HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE,
    )


async def welcome(request: Request) -> HTMLResponse:
    """What somebody sees who opens the address in a browser."""
    state = await _state(request.state.plane)
    page = TEMPLATES.get_template("welcome.html").render(state=state)
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'self'; frame-ancestors 'none'"}
    return HTMLResponse(page, headers=headers)


async def _state(plane: Plane) -> dict[str, Any]:
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            if not await migrate.is_current(plane.db):
                return {"database": "not migrated", "redis": await _redis(plane), "workers": 0}
            async with plane.db.reading() as session:
                workers = len(await processes.live_workers(session))
    except (ServiceUnavailable, TimeoutError):
        return {"database": "unreachable", "redis": await _redis(plane), "workers": 0}
    return {"database": "ok", "redis": await _redis(plane), "workers": workers}


async def _redis(plane: Plane) -> str:
    return "ok" if await plane.queue.is_up() else "unreachable"
