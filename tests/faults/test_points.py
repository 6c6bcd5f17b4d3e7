"""A run outlives every fault at every point of its life: each tenant repaired once, counts exact, one completion."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from sqlalchemy import text

from opsplane import embedded, migrate
from opsplane.config import Settings
from opsplane.db import Database
from opsplane.tenants import universe
from tests.faults.lives import TABLES, TENANTS, THINGS
from tests.faults.points import CASES, Case

LANES = 8
LIMIT_S = 600  # a quiet machine of two cores needs little more than a minute


@pytest.fixture(scope="module")
async def lanes(settings: Settings, new_database: Callable[[], Awaitable[str]]) -> list[str]:
    """Databases with two tenants, copied from one."""
    template = await new_database()
    own = settings.model_copy(update={"database_url": template})
    await migrate.upgrade(own)
    db = Database(own)
    async with db.transaction() as tx:
        for statement in TABLES:
            await tx.session.execute(text(statement))
        workspace = await universe.workspace_id(tx.session)
        for number, name in enumerate(TENANTS):
            tenant = await universe.add(tx.session, workspace, name)
            await tx.session.execute(THINGS, {"start": 300 + 10 * number, "tenant": tenant.id})
    await db.close()
    return [template, *[await _copy(template, number) for number in range(1, LANES)]]


async def _copy(template: str, number: int) -> str:
    url, _, query = template.partition("?")
    server, _, name = url.rpartition("/")
    connection = await asyncpg.connect(f"{server}/postgres?{query}")
    await connection.execute(f"CREATE DATABASE {name}_{number} TEMPLATE {name}")
    await connection.close()
    return f"{server}/{name}_{number}?{query}"


@pytest.fixture(scope="module")
async def wrongs(
    request: pytest.FixtureRequest,
    lanes: list[str],
    servers: embedded.Endpoints,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, list[str]]:
    """What was wrong after each case that was picked; all of them run at once, in as many lanes as there are."""
    asked = {
        "cases": _picked(request.session),
        "database_urls": lanes,
        "redis_url": servers.redis_url,
        "home": str(tmp_path_factory.mktemp("lanes")),
        "key": "a key of the tests, of at least 32 characters",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.cases", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(LIMIT_S):
            answers, _ = await process.communicate(json.dumps(asked).encode())
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    return {answer["case"]: answer["wrongs"] for answer in map(json.loads, answers.splitlines())}


def _picked(session: pytest.Session) -> list[str]:
    names = {case.name for case in CASES}
    ids = (item.name.partition("[")[2].removesuffix("]") for item in session.items)
    return [name for name in ids if name in names]


@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_run_outlives(case: Case, wrongs: dict[str, list[str]]) -> None:
    if found := wrongs.get(case.name, ["no answer"]):
        pytest.fail("\n".join(found), pytrace=False)
