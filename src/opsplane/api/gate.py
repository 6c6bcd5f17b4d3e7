"""The gate of the system plane: decides before routing, so that every path looks the same from outside."""

from http import HTTPStatus

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from opsplane import migrate
from opsplane.api import problems
from opsplane.auth import tokens
from opsplane.auth.actors import Actor
from opsplane.errors import OpsplaneError, ServiceUnavailable
from opsplane.runbooks.service import Plane

log = structlog.get_logger()

NOT_MIGRATED = ServiceUnavailable("The database does not have this release's schema; run `opsplane migrate`.")


class SystemGate:
    """Lets requests with a valid token in; others get 401 (bad token) or the 404 of a missing path (none)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Decide for one request."""
        if scope["type"] != "http":
            return
        token = _bearer(Headers(scope=scope))
        if token is None:
            await problems.not_found()(scope, receive, send)
            return
        plane: Plane = scope["state"]["plane"]
        try:
            scope["state"]["operator"] = await _operator(plane, token)
        except OpsplaneError as refusal:
            await problems.refused(refusal)(scope, receive, send)
            return
        except Exception as error:
            log.exception("gate_failed", exc_info=error)
            if not await migrate.is_current(plane.db):
                await problems.refused(NOT_MIGRATED)(scope, receive, send)
                return
            refused = problems.problem(
                HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "Something unexpected happened."
            )
            await refused(scope, receive, send)
            return
        await self._app(scope, receive, send)


async def _operator(plane: Plane, token: str) -> Actor:
    async with plane.db.transaction() as tx:
        return await tokens.authenticate(tx.session, token)


def _bearer(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
