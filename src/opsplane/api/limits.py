"""How large a request may be, and how many one client address may make; both refused before anything is read."""

import logging
import math
import time

from slowapi import Limiter
from slowapi.errors import RateLimitExceeded
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from opsplane.api import problems, windows
from opsplane.api.refusals import BodyTooLarge, TooManyRequests
from opsplane.auth import throttle

LOGINS = "120/minute"
PLANES = frozenset({"admin", "system"})
LOGIN_PATHS = frozenset(f"/{plane}/login" for plane in PLANES)
HEALTH = frozenset({"/healthz", "/readyz"})


class BodyLimit:
    """Answers 413 to a body that says it is, or turns out to be, too large.

    Starlette's `RequestBodyLimitMiddleware` answers in plain text, and only once the application has asked.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Measure one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        meter = _Meter(receive, send, self._max_bytes)
        if _declared(Headers(scope=scope)) <= self._max_bytes:
            try:
                await self._app(scope, meter.receive, meter.send)
            except BodyTooLarge:
                if meter.answered:
                    raise
            if not meter.overflowed or meter.answered:
                return
        await problems.refused(BodyTooLarge(self._max_bytes))(scope, receive, send)


class _Meter:
    """Counts a body as it comes; whatever is answered to one that overflowed is not sent."""

    def __init__(self, receive: Receive, send: Send, max_bytes: int) -> None:
        self._receive = receive
        self._send = send
        self._max_bytes = max_bytes
        self._seen = 0
        self.answered = False

    @property
    def overflowed(self) -> bool:
        return self._seen > self._max_bytes

    async def receive(self) -> Message:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        if self.overflowed:
            raise BodyTooLarge(self._max_bytes)
        return message

    async def send(self, message: Message) -> None:
        if self.answered or not self.overflowed:
            self.answered = True
            await self._send(message)


class RateLimit:
    """Refuses a client address its request too many in a minute, and its login too many, whatever the names.

    Each plane counts apart, and health does not count.

    Around the root application: a limit on the planes alone would tell strangers by its 429 that they are there.
    """

    def __init__(self, app: ASGIApp, per_minute: int) -> None:
        self._app = app
        self._requests, self._logins = AtMost(f"{per_minute}/minute"), AtMost(LOGINS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count one request."""
        if scope["type"] == "http" and scope["path"] not in HEALTH:
            try:
                await self._requests(Request(scope))
                if scope["method"] == "POST" and scope["path"] in LOGIN_PATHS:
                    await self._logins(Request(scope))
            except TooManyRequests as refusal:
                await problems.refused(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class AtMost:
    """So many requests of one client address to one plane, such as `120/minute`; also a dependency for one route.

    slowapi's middlewares look the route up in `app.routes`, where FastAPI keeps included routers as one entry
    without an endpoint: they would limit nothing. Its decorator needs no route.
    """

    def __init__(self, limit: str) -> None:
        # In memory, for slowapi asks its storage synchronously: a stalled Redis would stop the whole process.
        self._limiter = Limiter(key_func=_caller, storage_uri=f"{windows.SCHEME}://", key_style="endpoint")
        self._limiter.enabled = True  # whatever RATELIMIT_ENABLED says outside
        self._limiter.logger.setLevel(logging.ERROR)  # it would log each refusal of a flood
        self._admit = self._limiter.limit(limit)(_admitted)

    async def __call__(self, request: Request) -> None:
        """Count one request.

        Raises:
            TooManyRequests: it is one too many (429).
        """
        apart = Request({**request.scope, "state": {}})  # slowapi checks one limit per state and no second
        try:
            await self._admit(request=apart)
        except RateLimitExceeded:
            raise TooManyRequests(self._wait_s(apart)) from None

    def _wait_s(self, request: Request) -> int:
        limit, key = request.state.view_rate_limit
        stats = self._limiter.limiter.get_window_stats(limit, *key)
        return max(1, math.ceil(stats.reset_time - time.time()))


async def _admitted(request: Request) -> None:
    """Do nothing: it is what slowapi's decorator stands before."""


def _caller(request: Request) -> str:
    plane = request.scope["path"].strip("/").partition("/")[0]
    address = throttle.network(request.client.host if request.client else "")
    return f"{plane if plane in PLANES else '-'}:{address}"


def _declared(headers: Headers) -> int:
    length = headers.get("content-length", "")
    # The server refuses other lengths; what comes is measured all the same.
    return int(length[:19]) if length.isdecimal() else 0
