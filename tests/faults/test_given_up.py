"""A run is given up only for what is left to do in it."""

import uuid

from sqlalchemy import text

from opsplane.auth.actors import Actor
from opsplane.runbooks.service import Plane
from opsplane.runs import sweeper
from opsplane.tenants.models import Tenant
from tests import support
from tests.faults import work

GROWN_OLD = (
    "UPDATE operation_runs SET created_at = 'epoch'",
    "UPDATE operation_run_items SET started_at = 'epoch', progress_at = 'epoch', finished_at = 'epoch'",
    "INSERT INTO processes (id, kind, host, pid, version, slots) VALUES (gen_random_uuid(), 'worker', 'h', 1, '2', 2)",
)


async def test_a_run_whose_tenants_all_ended_is_not_failed_because_no_worker_has_its_code_any_more(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run = (await support.start(plane, operator, "test.effects.plain")).run
    await work.begin(plane, run.id)
    while (lease := await work.claim(plane, run.id, uuid.uuid4(), 60)) is not None:
        chunk = await work.open_chunk(plane, lease)
        await chunk.commit(lease, updated=1, lease_s=60, last=True)
    async with plane.db.transaction() as tx:
        for statement in GROWN_OLD:
            await tx.session.execute(text(statement))
    await work.sweep_one(plane, sweeper.fail_unrunnable)
    await work.sweep_one(plane, sweeper.settle_all)
    ended = await support.show(plane, run.id)
    assert (ended.outcome, ended.failures, ended.summary_counts["succeeded"]) == ("succeeded", [], 3)
