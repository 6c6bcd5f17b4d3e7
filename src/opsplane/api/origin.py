"""Changes come from our own pages: what browsers say of a request tells, so that forms need no tokens."""

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from opsplane.api import problems
from opsplane.errors import OpsplaneError

SAFE = frozenset({"GET", "HEAD"})


class CrossSiteRequest(OpsplaneError):
    """A change that another site had the browser ask for."""

    status, code = HTTPStatus.FORBIDDEN, "cross_site_request"

    def __init__(self) -> None:
        super().__init__(
            "This change was asked for by another site. Open opsplane at OPSPLANE_BASE_URL; scripts use an API token."
        )


class JsonRequired(OpsplaneError):
    """A body that is not JSON: what HTML forms of any site can send without asking."""

    status, code = HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "json_required"

    def __init__(self) -> None:
        super().__init__("Send the body as application/json.")


class SameOrigin:
    """Refuses changes from other sites, and bodies that are not JSON.

    Sec-Fetch-Site decides where a browser sends it, else Origin; a request with neither is
    refused, as it would be no browser that holds a cookie of ours. An API token is no cookie.
    """

    def __init__(self, app: ASGIApp, base_url: str) -> None:
        self._app = app
        self._origin = base_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge one request."""
        headers = Headers(scope=scope)
        if scope["method"] in SAFE:
            await self._app(scope, receive, send)
        elif "authorization" not in headers and not self._is_ours(headers):
            await problems.refused(CrossSiteRequest())(scope, receive, send)
        elif _has_body(headers) and not _is_json(headers):
            await problems.refused(JsonRequired())(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_ours(self, headers: Headers) -> bool:
        site = headers.get("sec-fetch-site")
        if site is not None:
            return site in {"same-origin", "none"}
        return headers.get("origin") == self._origin


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _is_json(headers: Headers) -> bool:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
