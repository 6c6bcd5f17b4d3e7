"""Counts requests by the template of their route, so that no path that somebody makes up becomes a series."""

import time
from dataclasses import dataclass
from http import HTTPStatus

from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from opsplane.api.limits import PLANES

SEEN = "opsplane.seen"
NONE, MOUNTED, OTHER = "none", "mounted", "other"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
STREAM = "text/event-stream"

requests = Counter(
    "opsplane_http_requests_total",
    "Requests by what answered them; a stream counts when it ends. Route `none`: missing, or refused before routing.",
    ["plane", "method", "route", "status"],
)
seconds = Histogram(
    "opsplane_http_request_seconds",
    "Time until the answer was sent, of all requests but streams.",
    ["plane", "method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20),
)


@dataclass
class Seen:
    """What becomes known of a request on its way."""

    route: str = NONE
    status: int = HTTPStatus.INTERNAL_SERVER_ERROR
    is_stream: bool = False


class Measured:
    """Counts every request once it is over; wraps everything that can answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Measure one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen, began = Seen(), time.monotonic()

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
                seen.is_stream = Headers(raw=message["headers"]).get("content-type", "").startswith(STREAM)
            await send(message)

        try:
            await self._app({**scope, SEEN: seen}, receive, watched)
        finally:
            _count(scope, seen, time.monotonic() - began)


class Routed:
    """Notes by which route a request is answered; stands before what routes, for the scope is copied on the way."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand one request on."""
        plane = scope.get("root_path", "")
        try:
            await self._app(scope, receive, send)
        finally:
            if SEEN in scope:
                scope[SEEN].route = _route(scope, plane)


def _route(scope: Scope, plane: str) -> str:
    template = getattr(scope.get("route"), "path", None)
    if template is not None:
        return f"{plane}{template}"
    return MOUNTED if "endpoint" in scope else NONE  # FastAPI says of a mount only that there is one


def _count(scope: Scope, seen: Seen, took_s: float) -> None:
    first = scope["path"].removeprefix("/").partition("/")[0]
    plane = first if first in PLANES else NONE
    method = scope["method"] if scope["method"] in METHODS else OTHER
    requests.labels(plane, method, seen.route, str(seen.status)).inc()
    if not seen.is_stream:
        seconds.labels(plane, method, seen.route).observe(took_s)
