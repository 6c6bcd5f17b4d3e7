"""The headers that tell a browser to trust a response as little as possible; one policy for every response."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

STATIC = "/static/"
CACHE_CONTROL = b"cache-control"
HSTS = "max-age=31536000"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; object-src 'none'; "
    # No policy can be made, so scripts build pages from nodes and text alone.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


class SecurityHeaders:
    """Sets the headers on every response, whatever a route set itself; wraps everything that can answer."""

    def __init__(self, app: ASGIApp, *, https: bool) -> None:
        self._app = app
        headers = HEADERS | ({"strict-transport-security": HSTS} if https else {})
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._ours = {name for name, _ in self._headers} | {b"server"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._set(message, cacheable=scope["path"].startswith(STATIC) and message["status"] < 400)
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _set(self, start: Message, *, cacheable: bool) -> None:
        given = [(name.lower(), value) for name, value in start.get("headers", [])]
        headers = [one for one in given if one[0] not in self._ours]  # so that none of ours is there twice
        if not cacheable and not any(name == CACHE_CONTROL for name, _ in headers):
            headers.append((CACHE_CONTROL, b"no-store"))
        start["headers"] = headers + self._headers
