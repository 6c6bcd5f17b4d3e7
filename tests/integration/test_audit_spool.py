"""An audit that fails: the act goes on, and no event is lost; AUDIT_FAILURES=1000 makes it the long campaign."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from opsplane.audit import log as audit
from opsplane.audit import replay, signing, spool, verification
from opsplane.audit.log import AuditUnavailable
from opsplane.audit.models import AuditEvent
from opsplane.auth.actors import Actor
from opsplane.config import Settings
from opsplane.outbox import OutboxEvent
from opsplane.runbooks import service
from opsplane.runbooks.service import Plane
from opsplane.runs import sweeper
from opsplane.runs.models import OperationRun
from opsplane.tenants.models import Tenant
from tests import support

FAILURES = int(os.environ.get("AUDIT_FAILURES", "100"))
BY = Actor.shell("tester")
BREAK = """
    CREATE FUNCTION test_refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
    CREATE TRIGGER test_refuse BEFORE INSERT ON audit_events FOR EACH ROW EXECUTE FUNCTION test_refuse()
"""
MEND = "DROP TRIGGER IF EXISTS test_refuse ON audit_events; DROP FUNCTION IF EXISTS test_refuse"


@pytest.fixture(autouse=True)
def _empty_spool(settings: Settings) -> Iterator[None]:
    shutil.rmtree(spool.folder(settings), ignore_errors=True)
    yield
    shutil.rmtree(spool.folder(settings), ignore_errors=True)


async def sql(plane: Plane, statements: str) -> None:
    async with plane.db.transaction() as tx:
        for statement in statements.split(";\n") if "CREATE TRIGGER" in statements else statements.split(";"):
            await tx.session.execute(text(statement))


@pytest.fixture
async def broken(plane: Plane) -> AsyncIterator[Plane]:
    """A plane whose database takes no audit event."""
    await sql(plane, BREAK)
    yield plane
    await sql(plane, MEND)


async def record(plane: Plane, subject: object, **values: Any) -> None:
    async with plane.db.transaction() as tx:
        await audit.record(tx.session, "test.act", by=BY, subject_type="thing", subject_id=subject, **values)


async def subjects(plane: Plane) -> list[str | None]:
    async with plane.db.reading() as session:
        return list(await session.scalars(select(AuditEvent.subject_id).where(AuditEvent.action == "test.act")))


async def test_no_event_is_lost_after_replay(broken: Plane) -> None:
    for start in range(0, FAILURES, 5):
        await asyncio.gather(*(record(broken, number) for number in range(start, start + 5)))
    await sweeper.sweep(broken.db, broken.queue, broken.settings)
    assert await subjects(broken) == [], "the table still refuses"
    await sql(broken, MEND)
    for _ in range(2):
        await sweeper.sweep(broken.db, broken.queue, broken.settings)
    found = await subjects(broken)
    assert sorted(map(int, filter(None, found))) == list(range(FAILURES))
    assert not spool.holds_any(broken.settings)
    assert (await verification.verify(broken.db, broken.settings)).breaks == 0
    print(f"{FAILURES} audit failures, {len(set(found))} events after replay, 0 lost")  # noqa: T201 - the campaign's result


async def test_a_run_goes_on_and_its_whole_story_comes_back(
    broken: Plane, tenants: list[Tenant], operator: Actor, capsys: pytest.CaptureFixture[str]
) -> None:
    await support.add_findings(broken, tenants[0], 3)
    run = (await support.start(broken, operator)).run
    await support.drain(broken, run.id)
    assert (await support.show(broken, run.id)).outcome == "succeeded"
    await sql(broken, MEND)
    await replay.replay(broken.db, broken.settings)
    async with broken.db.reading() as session:
        actions = set(await session.scalars(select(AuditEvent.action)))
    assert "audit_event_refused" in capsys.readouterr().out, "the log has it at once, and whole"
    assert actions >= {f"platform.ops.runbooks.{act}" for act in ("preflight", "started", "completed")}


async def test_a_degraded_audit_is_told_to_the_alert_channels_once_an_hour(broken: Plane) -> None:
    await record(broken, 1)
    for _ in range(5):
        await sweeper.sweep(broken.db, broken.queue, broken.settings)
    told = await support.count(broken, OutboxEvent, OutboxEvent.kind == "audit.degraded")
    assert 1 <= told <= 2, "two, if the clock has struck meanwhile"


async def test_an_act_that_was_rolled_back_leaves_no_event(broken: Plane) -> None:
    with pytest.raises(ZeroDivisionError):
        async with broken.db.transaction() as tx:
            await audit.record(tx.session, "test.act", by=BY, subject_type="thing", subject_id="undone")
            raise ZeroDivisionError
    await sql(broken, MEND)
    await replay.replay(broken.db, broken.settings)
    assert await subjects(broken) == []
    assert not spool.holds_any(broken.settings)


async def test_an_act_still_under_way_waits_in_the_spool(broken: Plane) -> None:
    async with broken.db.transaction() as tx:
        await audit.record(tx.session, "test.act", by=BY, subject_type="thing", subject_id="slow")
        await replay.replay(broken.db, broken.settings)
        assert spool.holds_any(broken.settings)
    await sql(broken, MEND)
    await replay.replay(broken.db, broken.settings)
    assert await subjects(broken) == ["slow"]


async def test_replaying_twice_stores_once(broken: Plane) -> None:
    await record(broken, "once")
    kept = (spool.folder(broken.settings) / spool.SPOOL).read_text()
    await sql(broken, MEND)
    await replay.replay(broken.db, broken.settings)
    (spool.folder(broken.settings) / "replaying-again.jsonl").write_text(kept)
    await replay.replay(broken.db, broken.settings)
    assert await subjects(broken) == ["once"]


async def test_a_torn_line_is_put_aside_and_the_others_come_back(broken: Plane) -> None:
    await record(broken, 1)
    file = spool.folder(broken.settings) / spool.SPOOL
    with file.open("a") as out:
        out.write('{"event": {"id": "01')
    await record(broken, 2)
    await sql(broken, MEND)
    await replay.replay(broken.db, broken.settings)
    assert sorted(filter(None, await subjects(broken))) == ["1", "2"]
    assert (file.parent / spool.REJECTED).read_text().strip() == '{"event": {"id": "01'


async def test_lines_that_opsplane_did_not_write_are_put_aside_and_hold_nothing_up(broken: Plane) -> None:
    await record(broken, 1)
    file = spool.folder(broken.settings) / spool.SPOOL
    line = json.loads(file.read_text())
    forged = [
        123,
        {},
        line | {"event": line["event"] | {"actor_display": "eve"}},
        line | {"occurred_at": "2020-01-01T00:00:00+00:00"},
    ]
    with file.open("a") as out:
        out.writelines(json.dumps(one) + "\n" for one in forged)
    await sql(broken, MEND)
    await replay.replay(broken.db, broken.settings)
    assert await subjects(broken) == ["1"]
    assert len((file.parent / spool.REJECTED).read_text().split()) >= len(forged)
    assert not spool.holds_any(broken.settings)


async def test_a_spooled_event_that_the_database_can_never_hold_comes_back_in_short(broken: Plane) -> None:
    await record(broken, "odd", reason_text="a\0b")
    await record(broken, "good")
    await sql(broken, MEND)
    await replay.replay(broken.db, broken.settings)
    assert sorted(filter(None, await subjects(broken))) == ["good", "odd"]


async def test_a_transaction_that_the_database_does_not_remember_is_marked(broken: Plane) -> None:
    await record(broken, "old")
    file = spool.folder(broken.settings) / spool.SPOOL
    line = json.loads(file.read_text()) | {"xid": str(2**40)}
    file.write_text(json.dumps(signing.spooled(broken.settings, line)) + "\n")
    await sql(broken, MEND)
    await replay.replay(broken.db, broken.settings)
    async with broken.db.reading() as session:
        event = (await session.scalars(select(AuditEvent))).one()
    assert event.details == {"unconfirmed": True}


async def test_an_event_that_a_trigger_swallows_is_spooled(plane: Plane) -> None:
    await sql(
        plane,
        BREAK.replace(
            "RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'", "RETURN NULL"
        ),
    )
    try:
        await record(plane, "swallowed")
    finally:
        await sql(plane, MEND)
    await replay.replay(plane.db, plane.settings)
    assert await subjects(plane) == ["swallowed"]


async def test_what_the_caller_has_written_wrongly_is_the_callers_failure(plane: Plane, tenants: list[Tenant]) -> None:
    with pytest.raises(IntegrityError):
        async with plane.db.transaction() as tx:
            tx.session.add(Tenant(workspace_id=tenants[0].workspace_id, external_id="acme", name="again"))
            await audit.record(tx.session, "test.act", by=BY, subject_type="thing")
    assert not spool.holds_any(plane.settings)


async def test_what_the_database_cannot_hold_is_stored_in_short(plane: Plane) -> None:
    await record(plane, "odd", reason_text="a\0b")
    async with plane.db.reading() as session:
        event = (await session.scalars(select(AuditEvent))).one()
    assert (event.action, event.subject_id, event.reason_text) == ("test.act", "odd", "a�b")
    assert "shortened" in event.details
    assert not spool.holds_any(plane.settings)


@pytest.fixture
def no_spool(plane: Plane, settings: Settings) -> Iterator[None]:
    """A file where the folder of the spool should be."""
    place = spool.folder(settings)
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()
    yield
    place.unlink()


@pytest.mark.usefixtures("no_spool")
async def test_without_any_record_an_act_is_refused_but_a_run_goes_on(broken: Plane) -> None:
    with pytest.raises(AuditUnavailable):
        await record(broken, "refused")
    await record(broken, "goes on", or_go_on=True)


@pytest.mark.usefixtures("no_spool")
async def test_without_any_record_a_run_is_not_started_and_it_says_why(
    plane: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    await support.add_findings(plane, tenants[0], 1)
    seen = await service.preflight(plane, support.BACKFILL, None, by=operator, source=service.Source.CLI)
    await sql(plane, BREAK)
    try:
        with pytest.raises(AuditUnavailable):
            await support.start(plane, operator, preflight_id=seen.id)
    finally:
        await sql(plane, MEND)
    assert await support.count(plane, OperationRun) == 0


async def test_a_start_the_database_records_nothing_of_is_in_the_spool(
    broken: Plane, operator: Actor, tenants: list[Tenant]
) -> None:
    await support.add_findings(broken, tenants[0], 1)
    started = await support.start(broken, operator)
    await sql(broken, MEND)
    await sweeper.sweep(broken.db, broken.queue, broken.settings)
    async with broken.db.reading() as session:
        kept = await session.scalars(select(AuditEvent.subject_id).where(AuditEvent.action.endswith("started")))
    assert kept.all() == [str(started.run.id)]
