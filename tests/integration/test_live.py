"""What a page sees of a run while it goes on: its figures, and a stream of every change."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, update

from opsplane.auth.actors import Actor
from opsplane.runbooks.service import Plane
from opsplane.runs import figures
from opsplane.runs.figures import FiguresOut
from opsplane.runs.models import OperationRun, OperationRunItem
from opsplane.runs.views import RunNotFound
from opsplane.tenants.models import Tenant
from tests import support

EVERY_STATE = ("pending", "running", "succeeded", "skipped", "failed", "cancelled")


async def queued(plane: Plane, operator: Actor) -> uuid.UUID:
    return (await support.start(plane, operator, "test.effects.plain")).run.id


async def put_items(plane: Plane, run_id: uuid.UUID, states: list[str], **values: Any) -> None:
    """Items in these states, in this order of work but written backwards, as the order of rows means nothing."""
    rows = [
        {"run_id": run_id, "item_key": uuid.uuid4().hex, "ordinal": ordinal, "state": state, **values}
        for ordinal, state in enumerate(states, start=1)
    ]
    async with plane.db.transaction() as tx:
        await tx.session.execute(insert(OperationRunItem), rows[::-1])


async def show(plane: Plane, run_id: uuid.UUID) -> FiguresOut:
    async with plane.db.reading() as session:
        return await figures.show(session, run_id)


async def test_a_cell_has_the_letter_of_its_tenants_state(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    run_id = await queued(plane, operator)
    await put_items(plane, run_id, [*EVERY_STATE, "pending"])
    seen = await show(plane, run_id)
    assert (seen.cells, seen.tenants_per_cell) == ("prskfcp", 1)


async def test_a_cell_of_several_tenants_shows_the_one_that_needs_attention_most(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    run_id = await queued(plane, operator)
    pairs = ["skipped", "succeeded", "succeeded", "cancelled", "cancelled", "pending", "pending", "running"]
    await put_items(plane, run_id, [*pairs, "running", "failed", *["skipped"] * 4991])
    seen = await show(plane, run_id)
    assert (seen.cells, seen.tenants_per_cell) == ("scprf" + "k" * 2496, 2)


async def test_the_line_of_speed_is_when_tenants_ended(plane: Plane, operator: Actor, tenants: list[Tenant]) -> None:
    run_id = await queued(plane, operator)
    assert await show(plane, run_id) == FiguresOut(cells="", tenants_per_cell=1, throughput=[], seconds_per_point=0)
    begun_at = datetime.now(UTC)
    times = {"started_at": begun_at, "completed_at": begun_at + timedelta(seconds=120)}
    async with plane.db.transaction() as tx:
        await tx.session.execute(update(OperationRun).values(times))
    for after_s, rows in ((0, 1), (1.9, 10), (2.1, 100), (120, 1000), (121, 10_000)):
        ended = {"updated_count": rows, "finished_at": begun_at + timedelta(seconds=after_s)}
        await put_items(plane, run_id, ["succeeded"], **ended)
    seen = await show(plane, run_id)
    assert (seen.throughput, seen.seconds_per_point) == ([11, 100, *[0] * 57, 11_000], 2)


async def test_no_run_has_no_figures(plane: Plane) -> None:
    with pytest.raises(RunNotFound):
        await show(plane, uuid.uuid4())
