"""What a campaign runs against: a real server, a little of everything in its database, and ways in."""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
from pydantic import SecretStr

from opsplane.access.sign_in import ADMIN, SYSTEM
from opsplane.auth.capabilities import Capability
from opsplane.auth.models import PlatformUser
from opsplane.auth.roles import Role
from opsplane.config import Settings
from opsplane.db import Database
from opsplane.queue import Queue
from opsplane.runbooks import registry
from opsplane.runbooks.service import Plane
from opsplane.tenants import universe
from tests import support, web

START_S = 60


@dataclass
class Stand:
    """A server and who may come in."""

    url: str
    operator: str
    member: str
    token: str
    known: dict[str, list[str]] = field(default_factory=dict)

    def signed_in(self, plane: str) -> str:
        """The cookie of a new session."""
        answer = httpx.post(
            f"{self.url}/{plane}/login",
            json={"username": self.operator if plane == SYSTEM else self.member, "password": web.PASSWORD},
            headers=web.SAME_ORIGIN | elsewhere(),
        )
        assert answer.status_code == 204, answer.text
        return f"opsplane_{plane}={answer.cookies[f'opsplane_{plane}']}"


def elsewhere() -> dict[str, str]:
    """A client address of its own, so that no count of one address is reached."""
    return {"X-Forwarded-For": ".".join(["10", *(str(1 + secrets.randbelow(250)) for _ in range(3))])}


@contextlib.contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The server in a process of its own; yields its address, and fails if this very process does not answer there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    secret = settings.secret_key or SecretStr("")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPSPLANE_")} | {
        "OPSPLANE_DATABASE_URL": settings.database_url or "",
        "OPSPLANE_REDIS_URL": settings.redis_url or "",
        "OPSPLANE_HOME": str(settings.home),
        "OPSPLANE_SECRET_KEY": secret.get_secret_value(),
        "OPSPLANE_REQUESTS_PER_MINUTE": "1000000",
        "OPSPLANE_TRUSTED_PROXIES": "127.0.0.1",
    }
    command = [sys.executable, "-m", "tests.fuzz.server", str(port)]
    log = settings.home / "serve.log"
    with log.open("wb") as lines:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=lines, stderr=lines)
    try:
        url = f"http://127.0.0.1:{port}"
        _await(process, url)
        yield url
        assert process.poll() is None, "the server ended before the campaign did"
    finally:
        process.terminate()
        process.wait(START_S)


def _await(process: subprocess.Popen[bytes], url: str) -> None:
    ends = time.monotonic() + START_S
    while True:
        assert process.poll() is None, "our server did not start"
        assert time.monotonic() < ends, "our server does not answer"
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        time.sleep(0.1)


async def furnish(settings: Settings, url: str) -> Stand:
    """Tenants, findings, a run, an operator with every capability, a member of the whole workspace."""
    registry.load(settings.runbooks_dir)
    plane = Plane(Database(settings), Queue(settings), settings)
    operator = await web.platform_user(plane, *registry.capabilities())
    member = await web.tenant_user(plane, Role.OWNER, None)
    token = await web.token(plane, operator, *registry.capabilities() - {Capability.BREAK_GLASS})
    stand = Stand(url, operator.email, member.email, token, await _known(plane, operator))
    await plane.queue.close()
    await plane.db.close()
    return stand


async def _known(plane: Plane, operator: PlatformUser) -> dict[str, list[str]]:
    names = ("acme", "globex", "initech")
    async with plane.db.transaction() as tx:
        workspace = await universe.workspace_id(tx.session)
        tenants = [await universe.add(tx.session, workspace, f"{name}-{operator.id.hex[-6:]}") for name in names]
    for tenant in tenants:
        await support.add_findings(plane, tenant, 60)
    some = [value for tenant in tenants for value in (str(tenant.id), tenant.external_id)]
    return {
        "key": [support.BACKFILL],
        "runbook": [support.BACKFILL],
        "tenant": some,
        "tenant_id": [str(tenant.id) for tenant in tenants],
        "confirmation": ["BACKFILL"],
        "password": [web.PASSWORD],
        "username": [operator.email],
        "since": ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-11-21T00:00:00Z"],
        "until": ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-11-21T00:00:00Z"],
    }


PLANES = (SYSTEM, ADMIN)
