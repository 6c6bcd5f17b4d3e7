"""Who the client is: the peer, or what proxies named in the settings say."""

from typing import Any

from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from opsplane.config import Settings


def behind_proxies(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Take the client from `X-Forwarded-For` if the peer is trusted: its last entry that is no trusted proxy itself.

    The ASGI server must not do it again by a list of its own; `opsplane serve` sees to that.
    """
    wrapped: Any = ProxyHeadersMiddleware(app, trusted_hosts=settings.proxies)  # type: ignore[arg-type]
    trusted: ASGIApp = wrapped
    return trusted
