"""Secrets sent through every endpoint are found nowhere afterwards: logs, audit, errors, URLs, the database."""

import json
import logging
from typing import Any

import pytest
from sqlalchemy import text

from opsplane.auth.roles import Role
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import web
from tests.integration.test_planes import ADMIN, SYSTEM, Endpoint
from tests.web import HTML, PASSWORD, Client, Doors

TYPED = {
    "password": "canary-password-4711",
    "current": "canary-current-4711",
    "new": "canary-new-password-4711",
    "totp": "canary-totp-4711",
    "code": "canary-code-4711",
}
FORGED = {"session": "canary-session-4711", "token": "ops_system_00000000_canary-token-4711"}


def bodies() -> list[bytes]:
    """Where they belong, beside where they belong, and in something that is no JSON."""
    fields: dict[str, Any] = {"username": "ann@ops.test", **TYPED}
    alone = [{"username": "ann@ops.test", "password": TYPED["password"]}, {"password": TYPED["password"]}]
    alone += [{"current": TYPED["current"], "new": TYPED["new"]}, {"code": TYPED["code"]}]
    alone += [{"username": TYPED["password"], "password": PASSWORD, "totp": TYPED["totp"]}]
    odd = [{name: [secret] for name, secret in TYPED.items()}, list(TYPED.values())]
    made = [json.dumps(body).encode() for body in (fields, *alone, *odd)]
    return [*made, json.dumps(fields).encode()[:-1]]


async def send(client: Client, endpoint: Endpoint) -> list[str]:
    """Every answer as text, headers included but for the cookie that hands a session out."""
    said = []
    for body in bodies() if endpoint.method == "POST" else [b""]:
        for headers in ({"Content-Type": "application/json"}, HTML):
            answer = await client.request(endpoint.method, endpoint.url, content=body, headers=headers)
            shown = [f"{name}: {value}" for name, value in answer.headers.items() if name != "set-cookie"]
            said.append("\n".join([str(answer.url), *shown, answer.text]))
    return said


async def everything_stored(plane: Plane) -> str:
    async with plane.db.reading() as session:
        tables = await session.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
        return "\n".join([str((await session.execute(text(f'TABLE "{table}"'))).all()) for table in tables.all()])


async def test_no_secret_is_found_anywhere_after_it_was_sent_everywhere(
    doors: Doors,
    plane: Plane,
    tenants: list[Tenant],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    operator = await web.platform_user(plane, *registry.capabilities(), email="ann@ops.test")
    owner = await web.tenant_user(plane, Role.OWNER, tenants[0])
    token = await web.token(plane, operator, *registry.capabilities())
    signed_in = [await doors.signed_in(operator.email, address=f"192.0.2.{n}") for n in range(2)]
    customer = await doors.signed_in(owner.email, plane="admin")
    authenticator = (await signed_in[0].post("/system/totp", json={"password": PASSWORD})).json()["secret"]
    confirmed = await signed_in[0].post("/system/totp/confirm", json={"code": web.code(authenticator)})
    recovery = confirmed.json()["recovery_codes"]
    forged = doors.client(Cookie=f"opsplane_system={FORGED['session']}; opsplane_admin={FORGED['session']}")
    forged_token = doors.client(Authorization=f"Bearer {FORGED['token']}")
    callers = [*signed_in, customer, forged, forged_token, doors.client(Authorization=f"Bearer {token}")]

    said: list[str] = []
    for endpoint in sorted([*SYSTEM, *ADMIN], key=lambda one: "logout" in one.path):
        for caller in callers:
            said += await send(caller, endpoint)
        await plane.queue.redis.flushdb()

    sessions = [client.cookies[name] for client in (*signed_in, customer) for name in client.cookies]
    secrets = {*TYPED.values(), *FORGED.values(), PASSWORD, token, authenticator, *recovery, *sessions}
    captured = capsys.readouterr()
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    places = {
        "answers and URLs": "\n".join(said),
        "logs": "\n".join([captured.out, captured.err, *ours]),
        "database": await everything_stored(plane),
    }
    assert len(said) > 1000
    assert len(places["database"]) > 10_000
    found = {(place, secret) for place, what in places.items() for secret in secrets if secret in what}
    assert found == set()
