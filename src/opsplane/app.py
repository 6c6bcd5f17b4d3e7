"""The root app: its lifespan owns the connections; the planes are mounted, health stays outside of them."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from types import FrameType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp

from opsplane import connections, logs, migrate, runtime
from opsplane.access.sign_in import SignIn
from opsplane.alerts import courier
from opsplane.api import admin, hub, problems, system
from opsplane.api.gate import AdminGate, Planes, SystemGate
from opsplane.api.headers import SecurityHeaders
from opsplane.api.http_metrics import Measured, Routed
from opsplane.api.limits import BodyLimit, RateLimit
from opsplane.api.metrics import Exposition
from opsplane.api.origin import SameOrigin
from opsplane.api.proxies import behind_proxies
from opsplane.audit import metrics as audit_metrics
from opsplane.auth.passwords import Passwords
from opsplane.auth.throttle import Throttles
from opsplane.config import Environment, Settings
from opsplane.db import new_id
from opsplane.errors import OpsplaneError, ServiceUnavailable
from opsplane.pages import admin as admin_pages
from opsplane.pages import assets, planes, rendering
from opsplane.pages import system as system_pages
from opsplane.pages.shell import Liking
from opsplane.runbooks.service import Plane
from opsplane.runs import metrics as run_metrics
from opsplane.runs import processes, sweeper

READY_TIMEOUT_S = 3.0
WARM_S = 2.0


def build(settings: Settings) -> ASGIApp:
    """The whole application for one process; `settings` must name both servers."""
    app = FastAPI(
        title="opsplane", lifespan=_lifespan(settings), docs_url=None, redoc_url=None, openapi_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    problems.install(app)
    app.add_api_route("/healthz", healthz, methods=["GET"])
    app.add_api_route("/readyz", readyz, methods=["GET"])
    app.add_api_route("/metrics", Exposition().show, methods=["GET"])
    if settings.env is not Environment.PRODUCTION:
        app.add_api_route("/", welcome, methods=["GET"], response_class=HTMLResponse)
    assets.mount(app)
    operators = SystemGate(_guarded(_by_accept(system_pages.build(), system.build()), settings), settings)
    customers = AdminGate(_guarded(_by_accept(admin_pages.build(), admin.build()), settings), settings)
    limited = RateLimit(Planes(Routed(app), operators, customers), settings.requests_per_minute)
    headers = SecurityHeaders(GZipMiddleware(limited), https=settings.base_url.startswith("https://"))
    return Measured(behind_proxies(headers, settings))


def _guarded(app: ASGIApp, settings: Settings) -> ASGIApp:
    return SameOrigin(BodyLimit(Routed(app), settings.max_body_bytes), settings.base_url)


def _by_accept(pages: FastAPI, api: FastAPI) -> ASGIApp:
    """Both, ready to answer: FastAPI works out its routes as it first looks for one, here for one that nobody has."""
    for route in (*pages.routes, *api.routes):
        route.matches({"type": "http", "method": "GET", "path": "/-", "headers": []})
    return planes.ByAccept(pages, api)


def _lifespan(settings: Settings) -> Callable[[FastAPI], AbstractAsyncContextManager[dict[str, Any]]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        logs.configure(settings)
        audit_metrics.watch(settings)
        serving = runtime.opened(
            settings, application="opsplane-api", statement_timeout_s=connections.STATEMENT_S, looks_up=True
        )
        async with serving as plane, contextlib.AsyncExitStack() as held:
            sign_in = await held.enter_async_context(doorman(plane))
            streams = await held.enter_async_context(hub.opened(plane))
            run_metrics.begin()
            await warm(plane)
            stop = asyncio.Event()
            background = asyncio.gather(
                sweeper.sweep_until(stop, plane.db, plane.queue, settings),
                courier.deliver_until(stop, plane.db, settings),
                processes.beat_until(stop, plane.db, new_id(), kind=processes.API, slots=0),
            )
            with told_of_signals(streams.stop):  # the server waits for open streams before it says that it ends
                yield {"plane": plane, "sign_in": sign_in, "hub": streams}
            stop.set()
            await background

    return lifespan


async def warm(plane: Plane) -> None:
    """Have connections before anybody comes; a database that is away is told of to those who come."""
    with contextlib.suppress(OpsplaneError, TimeoutError):
        async with asyncio.timeout(WARM_S):
            await plane.db.warm()


@asynccontextmanager
async def doorman(plane: Plane, passwords: Passwords | None = None) -> AsyncIterator[SignIn]:
    """What judges whoever signs in, with its own connections to Redis."""
    redis_url = plane.settings.redis_url
    assert redis_url is not None, "no Redis is known yet"
    async with Throttles(redis_url) as throttles:
        yield SignIn(plane.db, plane.settings, passwords or Passwords(), throttles.logins, throttles.codes)


@contextlib.contextmanager
def told_of_signals(act: Callable[[], object]) -> Iterator[None]:
    """Call `act` when the process is asked to end, and then whatever was to be called without it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def asked(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(act)
        before = handlers[signal.Signals(number)]
        assert callable(before)
        before(number, frame)

    chained = {number: before for number, before in handlers.items() if callable(before)}
    for number in chained:
        signal.signal(number, asked)
    try:
        yield
    finally:
        for number, before in chained.items():
            signal.signal(number, before)


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
    """What a developer sees who opens the address in a browser; in production there is nothing here."""
    state = await _state(request.state.plane)
    return rendering.page("welcome.html", state=state, liking=Liking.of(request.cookies))


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
