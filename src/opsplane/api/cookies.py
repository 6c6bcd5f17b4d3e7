"""The session cookie of a plane: its own name, set and read by that plane alone."""

from dataclasses import dataclass
from typing import Self

from starlette.requests import HTTPConnection
from starlette.responses import Response

from opsplane.config import Settings


@dataclass(frozen=True)
class SessionCookie:
    """A cookie that scripts cannot read and other sites cannot send along with a change."""

    name: str
    secure: bool
    max_age_s: int

    @classmethod
    def of(cls, plane: str, settings: Settings) -> Self:
        """The cookie of `system` or `admin`; the `__Host-` prefix needs https."""
        secure = settings.base_url.startswith("https://")
        max_age_s = settings.system_session_s if plane == "system" else settings.admin_session_s
        return cls(f"{'__Host-' if secure else ''}opsplane_{plane}", secure, max_age_s)

    def read(self, connection: HTTPConnection) -> str | None:
        """The secret that the browser sent."""
        return connection.cookies.get(self.name)

    def put(self, response: Response, secret: str) -> None:
        """Hand the secret to the browser; SameSite=Lax, so that links in alerts work."""
        response.set_cookie(
            self.name, secret, max_age=self.max_age_s, path="/", secure=self.secure, httponly=True, samesite="lax"
        )

    def drop(self, response: Response) -> None:
        """Have the browser forget it."""
        response.delete_cookie(self.name, path="/", secure=self.secure, httponly=True, samesite="lax")
