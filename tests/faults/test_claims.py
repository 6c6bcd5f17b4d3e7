"""What the nemesis found about claims (seed 25): a pause did not see one that was on its way, nor its first chunk."""

import asyncio

import pytest

from opsplane.auth.actors import Actor
from opsplane.runbooks import control
from opsplane.runbooks.service import Plane
from opsplane.runs import control as run_control
from opsplane.runs import leases, lifecycle
from opsplane.runs.control import Ask
from opsplane.tenants.models import Tenant
from tests import support


async def test_a_run_is_not_paused_while_a_chunk_is_under_way_that_the_request_did_not_see(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    asked, claimed = asyncio.Event(), asyncio.Event()

    async def pause() -> None:
        async with plane.db.transaction() as tx:
            await run_control.ask(tx.session, run_id, Ask.PAUSE, by=operator)
            asked.set()
            await claimed.wait()
        async with plane.db.transaction() as tx:
            assert not await lifecycle.settle(tx.session, run_id)

    pausing = asyncio.create_task(pause())
    await asked.wait()
    async with plane.db.transaction() as tx:
        lease = await support.claimed(tx.session, run_id)
    async with plane.db.transaction() as chunk:
        await leases.fence(chunk.session, lease)  # the request is not committed yet
        claimed.set()
        await pausing
        await support.finish(chunk.session, lease)
    async with plane.db.transaction() as tx:
        assert await lifecycle.settle(tx.session, run_id)
    assert (await support.show(plane, run_id)).status == "paused"


async def test_a_claim_that_comes_to_light_after_the_pause_writes_nothing(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await support.begun(plane, operator)
    async with plane.db.transaction() as on_its_way:
        lease = await support.claimed(on_its_way.session, run_id)
        assert (await control.ask(plane, run_id, Ask.PAUSE, by=operator)).status == "paused"
    with pytest.raises(leases.RunNotRunning):
        async with plane.db.transaction() as chunk:
            await leases.fence(chunk.session, lease)
