"""Whatever befalls the record is heard of where people have asked to hear, not only in the log (FR-006)."""

import shutil

from sqlalchemy import select, text

from opsplane.audit import spool
from opsplane.db import new_id
from opsplane.outbox import Kind, OutboxEvent
from opsplane.runbooks.service import Plane
from opsplane.runs import sweeper
from tests.integration.test_audit_chain import BARE, seal
from tests.integration.test_audit_spool import BREAK, MEND, broken, record, sql
from tests.integration.test_courier import add, authority, deliver, house, reaching, receiver
from tests.receivers import Receiver

__all__ = ["authority", "broken", "house", "reaching", "receiver"]


async def sweep(plane: Plane) -> None:
    await sweeper.sweep(plane.db, plane.queue, plane.settings)


async def troubles(plane: Plane) -> list[str]:
    async with plane.db.reading() as session:
        told = await session.scalars(select(OutboxEvent).where(OutboxEvent.kind == Kind.AUDIT_DEGRADED))
        return [event.payload["trouble"] for event in told]


async def test_an_audit_that_spools_reaches_a_destination(house: Plane, receiver: Receiver) -> None:
    await add(house, receiver)
    await sql(house, BREAK)
    try:
        await record(house, "spooled")
        for _ in range(2):
            await sweep(house)
    finally:
        await sql(house, MEND)
    assert await deliver(house) >= 1, "two, if the clock has struck meanwhile"
    assert Kind.AUDIT_DEGRADED in receiver.requests[0].body.decode()
    await sweep(house)
    assert not spool.holds_any(house.settings)


async def test_an_event_that_somebody_else_wrote_is_told(plane: Plane) -> None:
    async with plane.db.transaction() as tx:
        forged = f"INSERT INTO audit_events (id, {BARE}) VALUES (:id, 'a', 'system', 'system', 'x', 't')"
        await tx.session.execute(text(forged), {"id": new_id()})
    await seal(plane)
    assert await troubles(plane) == ["not-ours"]


async def test_an_event_stored_in_short_is_told(plane: Plane) -> None:
    await record(plane, "whole")
    await seal(plane)
    assert await troubles(plane) == []
    await record(plane, "odd", reason_text="a\0b")
    await seal(plane)
    assert await troubles(plane) == ["shortened"]


async def test_an_event_that_only_the_log_has_is_told_once(broken: Plane) -> None:
    place = spool.folder(broken.settings)
    shutil.rmtree(place, ignore_errors=True)
    place.touch()
    try:
        await record(broken, "goes on", or_go_on=True)
    finally:
        place.unlink()
    await sql(broken, MEND)
    for _ in range(2):
        await sweep(broken)
    assert await troubles(broken) == ["lost"]
