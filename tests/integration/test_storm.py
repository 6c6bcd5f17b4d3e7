"""Starts that race, over real HTTP: STORM_ROUNDS=200 makes it the long campaign."""

import asyncio
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import text

from opsplane.config import Settings
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import support
from tests.integration.conftest import Commands
from tests.integration.test_api import start_body, token

ROUNDS = int(os.environ.get("STORM_ROUNDS", "40"))
RIGHTS = (
    "platform.system.access", "platform.runbooks.view", "platform.runbooks.run",
    "platform.runbooks.findings.lifecycle_backfill",
)  # fmt: skip
OVERLAPS = """
    SELECT count(*) FROM operation_runs a JOIN operation_runs b
    ON a.id < b.id AND a.status <> 'completed' AND b.status <> 'completed' AND a.tenant_span && b.tenant_span
"""


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    commands = Commands(settings)
    server = commands.start("serve", "--port", str(port))
    ends = time.monotonic() + 40
    while True:
        assert server.poll() is None, "our server did not start"
        assert time.monotonic() < ends
        try:
            httpx.get(f"http://127.0.0.1:{port}/healthz").raise_for_status()
            break
        except httpx.TransportError:
            time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    commands.end()


async def test_two_starts_at_once_never_leave_two_overlapping_runs(
    plane: Plane, tenants: list[Tenant], address: str
) -> None:
    for tenant in tenants:
        await support.add_findings(plane, tenant, 1)
    headers = {"Authorization": f"Bearer {await token(plane, *RIGHTS)}"}
    picker = random.Random(11)
    answers: Counter[str] = Counter()
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=30) as client:

        async def start(tenant: str | None) -> httpx.Response:
            scope = {"kind": "single_tenant", "tenant_id": tenant} if tenant else {"kind": "all_tenants"}
            url = "/system/ops/runbooks/findings.lifecycle.backfill/start"
            return await client.post(url, json=start_body(scope=scope))

        for _ in range(ROUNDS):
            scopes = [picker.choice([None, "acme", "globex"]) for _ in range(2)]
            for response in await asyncio.gather(*(start(scope) for scope in scopes)):
                answers[f"{response.status_code} {response.json().get('code', 'started')}"] += 1
            async with plane.db.transaction() as tx:
                assert await tx.session.scalar(text(OVERLAPS)) == 0
                ended = "UPDATE operation_runs SET status = 'completed', outcome = 'failed' WHERE status <> 'completed'"
                await tx.session.execute(text(ended))
    print(dict(answers))  # noqa: T201 - the campaign's result
    assert set(answers) == {"202 started", "409 scope_locked"}
    assert answers["202 started"] >= ROUNDS
