"""No request that another site made a browser send: what a cookie vouches for must come from our own pages."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from opsplane.api import problems
from opsplane.api.refusals import CrossSiteRequest, JsonRequired
from opsplane.errors import OpsplaneError

SAFE_METHODS = frozenset({"GET", "HEAD"})
OURS = frozenset({"same-origin", "none"})  # none: the person, not a page, made the browser send it
DEFAULT_PORTS = {"http": 80, "https": 443}


class SameOrigin:
    """Lets only JSON of our own origin change something; inside the gate, and around the login endpoints."""

    def __init__(self, app: ASGIApp, base_url: str) -> None:
        self._app = app
        self._base_url = base_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Decide for one request."""
        if scope["type"] == "http":
            try:
                check(scope["method"], Headers(scope=scope), self._base_url)
            except OpsplaneError as refusal:
                await problems.refused(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def check(method: str, headers: Headers, base_url: str) -> None:
    """Refuse what another site may have sent; a bearer token passes, because no browser adds one by itself.

    Raises:
        CrossSiteRequest: an unsafe method from elsewhere (403).
        JsonRequired: an unsafe method with a body that is not JSON (415).
    """
    if method in SAFE_METHODS or _has_bearer(headers):
        return
    if not same_origin(headers, base_url):
        raise CrossSiteRequest
    if _has_body(headers) and not _is_json(headers):
        raise JsonRequired


def same_origin(headers: Headers, base_url: str) -> bool:
    """Whether the browser says that one of our own pages sent this; saying nothing is no."""
    # Browsers send Sec-Fetch-Site to https:// and localhost only; elsewhere `Origin` has to tell.
    sites = headers.getlist("sec-fetch-site")
    if sites:
        return OURS.issuperset(sites)
    return headers.getlist("origin") == [origin_of(base_url)]


def origin_of(url: str) -> str:
    """The origin of a URL as browsers write it: lower case, without the scheme's own port."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    if parts.port in {None, DEFAULT_PORTS.get(parts.scheme)}:
        return f"{parts.scheme}://{host}"
    return f"{parts.scheme}://{host}:{parts.port}"


def _has_bearer(headers: Headers) -> bool:
    # Only this scheme: browsers do add `Basic` by themselves, when a proxy asked for it.
    return headers.get("authorization", "").partition(" ")[0].lower() == "bearer"


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _is_json(headers: Headers) -> bool:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
