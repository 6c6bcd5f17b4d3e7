"""How much one caller may ask: the size of a body, and requests a minute."""

from http import HTTPStatus

from fastapi import Depends, FastAPI, Request
from fastapi.params import Depends as Dependency
from slowapi import Limiter
from slowapi.errors import RateLimitExceeded
from slowapi.util import get_remote_address
from starlette.datastructures import Headers
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from opsplane.api import problems
from opsplane.errors import OpsplaneError


class BodyTooLarge(OpsplaneError):
    """The body is larger than any body of ours."""

    status, code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"A body has at most {max_bytes} bytes.")


class TooManyRequests(OpsplaneError):
    """The caller's address asked for too much in this minute."""

    status, code = HTTPStatus.TOO_MANY_REQUESTS, "too_many_requests"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("Too many requests from this address; slow down, or raise OPSPLANE_REQUESTS_PER_MINUTE.")
        self.retry_after_s = retry_after_s


class BodyLimit:
    """Refuses a body that says it is too large, or turns out to be."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = RequestBodyLimitMiddleware(app, max_body_size=max_bytes)
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge one request."""
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            await problems.refused(BodyTooLarge(self._max_bytes))(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def requests(per_minute: int) -> Dependency:
    """At most so many requests a minute by one client address, counted in this process.

    A dependency, because slowapi's middleware does not find routes that FastAPI includes from
    routers; in memory, because slowapi asks its storage synchronously.
    """
    limiter = Limiter(key_func=get_remote_address, storage_uri="memory://")

    @limiter.shared_limit(f"{per_minute}/minute", scope="plane")
    async def within_limit(request: Request) -> None: ...

    dependency = Depends(within_limit)
    assert isinstance(dependency, Dependency)
    return dependency


def install(app: FastAPI) -> None:
    """Map slowapi's refusal and the body limit's to problem documents."""
    app.add_exception_handler(RateLimitExceeded, _too_many)


async def _too_many(_request: Request, error: Exception) -> problems.ProblemResponse:
    assert isinstance(error, RateLimitExceeded)
    assert error.limit is not None
    return problems.refused(TooManyRequests(int(error.limit.limit.get_expiry())))
