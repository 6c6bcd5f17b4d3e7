"""Who asks for a page: a browser that navigates, by hand, by link or by address bar."""

from starlette.datastructures import Headers
from starlette.types import Scope


def is_navigation(scope: Scope) -> bool:
    """Whether a browser wants to show the answer as a page."""
    return scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", "")
