"""The whole application over HTTP without a socket, and people who knock at its doors."""

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pyotp
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from starlette.types import ASGIApp

from opsplane import app
from opsplane.access.sign_in import SignIn
from opsplane.api import hub
from opsplane.api.hub import Hub, Pace
from opsplane.auth import members, tokens, users
from opsplane.auth.actors import Actor
from opsplane.auth.models import PlatformUser, TenantUser
from opsplane.auth.passwords import Passwords
from opsplane.auth.roles import Role
from opsplane.config import Settings
from opsplane.runbooks.service import Plane
from opsplane.tenants import universe
from opsplane.tenants.models import Tenant

PASSWORD = "correct horse battery staple"
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
CHEAP = PasswordHash([Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1)])  # the real one takes 0.1 s each

Client = httpx.AsyncClient


@dataclass
class Doors:
    """The application and its doorman; clients of it come from addresses of their own."""

    plane: Plane
    sign_in: SignIn
    app: ASGIApp
    hub: Hub
    opened: list[Client] = field(default_factory=list)

    def client(self, address: str = "192.0.2.1", **headers: str) -> Client:
        """A new client without cookies; as browsers do, it says that its requests come from this very origin."""
        transport = httpx.ASGITransport(self.app, client=(address, 1234), raise_app_exceptions=False)
        client = Client(transport=transport, base_url=self.plane.settings.base_url, headers=SAME_ORIGIN | headers)
        self.opened.append(client)
        return client

    async def signed_in(self, email: str, *, plane: str = "system", address: str = "192.0.2.1", **given: str) -> Client:
        """A client with a session."""
        client = self.client(address)
        answer = await client.post(f"/{plane}/login", json={"username": email, "password": PASSWORD, **given})
        assert answer.status_code == 204, answer.text
        return client


@asynccontextmanager
async def doors(plane: Plane, settings: Settings | None = None, pace: Pace = Pace()) -> AsyncIterator[Doors]:  # noqa: B008 - frozen
    """The application over a plane, with cheap password hashes."""
    plane = Plane(plane.db, plane.queue, settings or plane.settings)
    built = app.build(plane.settings)
    async with app.doorman(plane, Passwords(CHEAP)) as sign_in, hub.opened(plane, pace) as streams:

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            scope.setdefault("state", {}).update(plane=plane, sign_in=sign_in, hub=streams)
            await built(scope, receive, send)

        found = Doors(plane, sign_in, with_state, streams)
        yield found
        for client in found.opened:
            await client.aclose()


async def platform_user(plane: Plane, *capabilities: str, email: str | None = None) -> PlatformUser:
    """A platform user with a password and these capabilities."""
    async with plane.db.transaction() as tx:
        user = await users.create(tx.session, email or f"{uuid.uuid4().hex[:8]}@ops.test")
        await users.grant(tx.session, user, frozenset(capabilities))
        await users.set_password(tx.session, user, CHEAP.hash(PASSWORD))
    return user


async def tenant_user(plane: Plane, role: Role, tenant: Tenant | None, *, email: str | None = None) -> TenantUser:
    """A tenant user with a password and one membership; without a tenant, of the whole workspace."""
    async with plane.db.transaction() as tx:
        user = await members.create(tx.session, email or f"{uuid.uuid4().hex[:8]}@customer.test")
        workspace = await universe.workspace_id(tx.session)
        await members.grant(tx.session, user, role, workspace_id=workspace, tenant=tenant)
        user.password_hash = CHEAP.hash(PASSWORD)
    return user


async def token(plane: Plane, user: PlatformUser, *capabilities: str) -> str:
    """An API token of a platform user."""
    async with plane.db.transaction() as tx:
        minted = await tokens.mint(
            tx.session, user, name="t", capabilities=frozenset(capabilities), days=1, by=Actor.shell("tester")
        )
    return minted.secret


def code(secret: str, *, steps_ago: int = 0) -> str:
    """What an authenticator shows now."""
    return pyotp.TOTP(secret).at(int(time.time()) - 30 * steps_ago)


def weaker() -> PasswordHash:
    """Hashes with less work than the application's own."""
    return PasswordHash([Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1, hash_len=16)])
