"""What the nemesis found about claims (seed 25): one that was on its way was not seen by a pause."""

import asyncio
import uuid

from opsplane.auth.actors import Actor
from opsplane.runbooks import control
from opsplane.runbooks.service import Plane
from opsplane.runs import control as run_control
from opsplane.runs import leases, lifecycle
from opsplane.runs.control import Ask
from opsplane.tenants.models import Tenant
from tests import support


async def begun(plane: Plane, operator: Actor) -> uuid.UUID:
    run = (await support.start(plane, operator, "test.effects.plain")).run
    async with plane.db.transaction() as tx:
        await lifecycle.begin(tx.session, run.id)
    return run.id


async def test_a_pause_waits_for_a_claim_on_its_way_and_is_not_done_before_that_chunk_is(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await begun(plane, operator)
    async with plane.db.transaction() as tx:
        lease = await leases.claim(tx.session, run_id, uuid.uuid4(), lease_s=20)
        asking = asyncio.create_task(control.ask(plane, run_id, Ask.PAUSE, by=operator))
        await asyncio.sleep(0.3)
        assert not asking.done()
    assert (await asking).status == "pausing"
    assert lease is not None
    async with plane.db.transaction() as tx:
        await leases.release(tx.session, lease)
        assert await lifecycle.settle(tx.session, run_id)
    assert (await support.show(plane, run_id)).status == "paused"


async def test_a_claim_waits_for_a_pause_on_its_way_and_claims_nothing(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await begun(plane, operator)

    async def claim() -> leases.Lease | None:
        async with plane.db.transaction() as tx:
            return await leases.claim(tx.session, run_id, uuid.uuid4(), lease_s=20)

    async with plane.db.transaction() as tx:
        await run_control.ask(tx.session, run_id, Ask.PAUSE, by=operator)
        claiming = asyncio.create_task(claim())
        await asyncio.sleep(0.3)
        assert not claiming.done()
    assert await claiming is None
    assert (await support.show(plane, run_id)).status == "paused"


async def test_claims_do_not_wait_for_each_other(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    run_id = await begun(plane, operator)
    async with plane.db.transaction() as one, plane.db.transaction() as other:
        first = await leases.claim(one.session, run_id, uuid.uuid4(), lease_s=20)
        second = await leases.claim(other.session, run_id, uuid.uuid4(), lease_s=20)
    assert first is not None
    assert second is not None
    assert first.item_key != second.item_key
