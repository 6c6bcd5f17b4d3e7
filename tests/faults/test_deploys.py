"""A slice of the deploy hooks' campaign, and what a hook says that waits in vain."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from opsplane.auth.actors import Actor
from opsplane.config import Settings
from opsplane.runbooks.service import Plane
from opsplane.tenants.models import Tenant
from tests import support
from tests.faults import deploys
from tests.faults.deploys import Forker

SEED, HOOKS = 4, 6


@pytest.fixture(scope="module")
async def forker(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Forker]:
    async with deploys.forking(settings, tmp_path_factory.mktemp("hooks")) as forker:
        yield forker


async def test_killed_deploy_hooks_leave_one_migration_and_one_run_of_each_runbook(
    settings: Settings, forker: Forker
) -> None:
    found = await deploys.play(SEED, settings, forker, count=HOOKS)
    assert found.wrong == []
    assert found.killed > 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [(["--timeout", "1"], 5, "not started: A run of"), (["--no-wait"], 3, "not started: A run of")],
    ids=["in vain", "not at all"],
)
async def test_a_hook_that_waits_for_a_foreign_run_in_vain_has_timed_out_and_is_not_refused(
    plane: Plane, operator: Actor, tenants: list[Tenant], settings: Settings, forker: Forker,
    arguments: list[str], code: int, says: str,
) -> None:  # fmt: skip
    await support.add_findings(plane, tenants[0], 1)
    await support.start(plane, operator)
    hook = await forker.start(
        "deploy", "--runbook", support.BACKFILL, *arguments, OPSPLANE_DATABASE_URL=settings.database_url or ""
    )
    assert await asyncio.wait_for(hook.ended, 60) == code
    assert says in hook.log.read_text()
