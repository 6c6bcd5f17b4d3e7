"""Whose word counts on where a request comes from."""

from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from opsplane.config import Settings


def behind_proxies(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Take the client's address from X-Forwarded-For, as far as trusted proxies wrote it; else from the connection."""
    if not settings.proxies:
        return app
    trusted: ASGIApp = ProxyHeadersMiddleware(app, trusted_hosts=settings.proxies)  # type: ignore[arg-type, assignment]
    return trusted
