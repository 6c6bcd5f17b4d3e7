"""The gate of a plane: decides before routing, so that every path looks the same from outside."""

from abc import ABC, abstractmethod
from functools import partial
from http import HTTPStatus
from typing import ClassVar
from urllib.parse import quote

import structlog
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from opsplane import migrate
from opsplane.access import operators
from opsplane.access.operators import Operator
from opsplane.api import problems
from opsplane.api.cookies import SessionCookie
from opsplane.api.navigation import is_navigation
from opsplane.auth import members, sessions
from opsplane.auth.models import AdminSession, SystemSession
from opsplane.config import Settings
from opsplane.errors import OpsplaneError, ServiceUnavailable
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane

log = structlog.get_logger()

NOT_MIGRATED = ServiceUnavailable("The database does not have this release's schema; run `opsplane migrate`.")
LONGEST_NEXT = 2000
BACKGROUND = "x-opsplane-background"  # what pages send when they poll
KINDS: dict[str, type[SystemSession] | type[AdminSession]] = {"system": SystemSession, "admin": AdminSession}


class Gate(ABC):
    """Lets the plane's own people in; to everybody else, paths that exist and paths that do not are the same.

    In this order: a session or token of the plane goes on to the app; a bad token is 401; a
    browser without any session is sent to the login page; everything else is the 404 of a
    missing path. Only the login page and its endpoint answer everybody.
    """

    plane: ClassVar[str]
    other: ClassVar[str]

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._cookie = SessionCookie.of(self.plane, settings)
        self._foreign_cookie = SessionCookie.of(self.other, settings)
        self._login = f"/{self.plane}/login"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Decide for one request."""
        if scope["type"] != "http":
            await WebSocketClose()(scope, receive, send)
            return
        answer: ASGIApp
        connection = HTTPConnection(scope)
        try:
            answer = await self._answer(connection)
        except OpsplaneError as refusal:
            answer = problems.refused(refusal)
        except Exception as error:  # noqa: BLE001 - nothing may get past the gate by failing in it
            answer = await _defect(connection, error)
        await answer(scope, receive, send)

    async def _answer(self, connection: HTTPConnection) -> ASGIApp:
        if self._is_login(connection) or await self._admit(connection):
            return self._app
        if is_navigation(connection.scope) and not await self._is_foreign(connection):
            return self._to_login(connection)
        return problems.not_found()

    @abstractmethod
    async def _admit(self, connection: HTTPConnection) -> bool:
        """Put the principal into the request's state; False if the request has no valid credential."""

    async def _is_foreign(self, connection: HTTPConnection) -> bool:
        """Whether the request comes with a living session of the other plane."""
        secret = self._foreign_cookie.read(connection)
        if secret is None:
            return False
        async with _plane(connection).db.reading() as session:
            return await sessions.exists(session, self._settings, KINDS[self.other], secret)

    def _is_login(self, connection: HTTPConnection) -> bool:
        if connection.scope["path"] != self._login:
            return False
        return connection.scope["method"] == "POST" or is_navigation(connection.scope)

    def _to_login(self, connection: HTTPConnection) -> Response:
        query = connection.scope["query_string"].decode("latin-1")
        wanted = connection.scope["path"] + (f"?{query}" if query else "")
        location = f"{self._login}?next={quote(wanted[:LONGEST_NEXT], safe='')}"
        return Response(status_code=HTTPStatus.SEE_OTHER, headers={"Location": location})


class Planes:
    """Hands every path below a plane's name to its gate, whatever is in it, and all others to the root app.

    Not mounts: their patterns do not match a path with a line feed in it, which would get past the gate.
    """

    def __init__(self, root: ASGIApp, *gates: Gate) -> None:
        self._root = root
        self._gates = {gate.plane: gate for gate in gates}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand one request on."""
        gate = self._gates.get(scope.get("path", "").removeprefix("/").partition("/")[0])
        if gate is None or scope["type"] == "lifespan":
            await self._root(scope, receive, send)
        else:
            below = scope.get("root_path", "") + f"/{gate.plane}"
            await gate({**scope, "root_path": below}, receive, send)


class SystemGate(Gate):
    """Operators, by session or by API token."""

    plane, other = "system", "admin"

    async def _admit(self, connection: HTTPConnection) -> bool:
        connection.state.look_again = partial(self._operator, connection, used=False)
        connection.state.operator = await self._operator(connection, used=_is_use(connection))
        return connection.state.operator is not None

    async def _operator(self, connection: HTTPConnection, *, used: bool) -> Operator | None:
        token, secret = bearer(connection), self._cookie.read(connection)
        if token is None and secret is None:
            return None
        if token is not None:
            return await operators.by_token(_plane(connection).db, token)
        async with _plane(connection).db.transaction() as tx:
            lendable = registry.capabilities()
            return await operators.by_session(tx.session, self._settings, secret or "", lendable=lendable, used=used)


class AdminGate(Gate):
    """Tenant users, by session."""

    plane, other = "admin", "system"

    async def _admit(self, connection: HTTPConnection) -> bool:
        secret = self._cookie.read(connection)
        if secret is None:
            return False
        async with _plane(connection).db.transaction() as tx:
            row = await sessions.find(tx.session, self._settings, AdminSession, secret, used=_is_use(connection))
            member = None if row is None else await members.load(tx.session, row.user_id)
        connection.state.member, connection.state.session = member, row
        return member is not None


async def _defect(connection: HTTPConnection, error: Exception) -> Response:
    log.error("gate_failed", exc_info=error)
    try:
        migrated = await migrate.is_current(_plane(connection).db)
    except OpsplaneError as refusal:
        return problems.refused(refusal)
    return problems.defect() if migrated else problems.refused(NOT_MIGRATED)


def _plane(connection: HTTPConnection) -> Plane:
    found: Plane = connection.state.plane
    return found


def _is_use(connection: HTTPConnection) -> bool:
    """Whether somebody is there; what a page asks by itself must not keep a forgotten tab signed in."""
    headers = connection.headers
    by_itself = (
        "text/event-stream" in headers.get("accept", "")
        or "prefetch" in headers.get("sec-purpose", "")
        or headers.get(BACKGROUND) == "1"
    )
    return not by_itself


def bearer(connection: HTTPConnection) -> str | None:
    """The API token of a request; empty if the header names none."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
