"""The chain: every tampering is found, and named; TAMPERINGS=1000 makes it the long campaign."""

import asyncio
import json
import os
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from opsplane.audit import anchor, chain, signing, spool, verification
from opsplane.audit import log as audit
from opsplane.audit.anchor import Anchor
from opsplane.audit.models import AuditEvent, AuditHead, AuditSeal
from opsplane.audit.verification import Verdict
from opsplane.auth.actors import Actor
from opsplane.db import new_id
from opsplane.errors import InvalidInput
from opsplane.outbox import OutboxEvent
from opsplane.runbooks.service import Plane
from opsplane.runs import sweeper

TAMPERINGS = int(os.environ.get("TAMPERINGS", "150"))
LENGTH = 40
MIGHT = "SET LOCAL session_replication_role = replica"  # what a superuser can do to triggers


async def write(plane: Plane, count: int, **details: Any) -> None:
    for number in range(count):
        async with plane.db.transaction() as tx:
            await audit.record(
                tx.session, "test.act", by=Actor.shell("tester"), subject_type="thing", subject_id=number,
                reason_text=f"because {number}", details={"n": number, **details},
            )  # fmt: skip


async def seal(plane: Plane) -> int:
    async with plane.db.transaction() as tx:
        return await chain.seal(tx, plane.settings)


async def tamper(plane: Plane, *statements: str, **values: Any) -> None:
    async with plane.db.transaction() as tx:
        await tx.session.execute(text(MIGHT))
        for statement in statements:
            await tx.session.execute(text(statement), values)


async def verify(plane: Plane, *anchors: Anchor) -> Verdict:
    return await verification.verify(plane.db, plane.settings, *anchors)


@pytest.fixture
async def sealed(plane: Plane) -> Plane:
    await write(plane, LENGTH)
    assert await seal(plane) == LENGTH
    return plane


async def test_an_untouched_record_is_intact(sealed: Plane) -> None:
    await write(sealed, 3)
    verdict = await verify(sealed)
    assert (verdict.sealed, verdict.waiting, verdict.breaks, verdict.first) == (LENGTH, 3, 0, None)


async def test_a_sweep_seals_what_waits(plane: Plane) -> None:
    await write(plane, 5)
    await sweeper.sweep(plane.db, plane.queue, plane.settings)
    assert (await verify(plane)).sealed == 5
    assert anchor.kept(plane.settings) == (await verify(plane)).end


async def test_two_sealers_at_once_make_one_chain(plane: Plane) -> None:
    await write(plane, 30)
    assert sorted(await asyncio.gather(*(seal(plane) for _ in range(4)))) == [0, 0, 0, 30]
    assert (await verify(plane)).breaks == 0


@pytest.mark.parametrize("table", ["audit_events", "audit_seals"])
@pytest.mark.parametrize("act", ["UPDATE {} SET {} = {}", "DELETE FROM {}", "TRUNCATE {}"])
async def test_the_database_refuses_to_change_the_record(sealed: Plane, table: str, act: str) -> None:
    column = {"audit_events": "action", "audit_seals": "prev"}[table]
    async with sealed.db.engine.connect() as connection:
        with pytest.raises(DBAPIError, match="only grows"):
            await connection.execute(text(act.format(table, column, column)))


FIELDS = {
    "action": "'test.other'",
    "actor_display": "'somebody else'",
    "actor_kind": "'system'",
    "subject_id": "NULL",
    "reason_text": "reason_text || ' '",
    "occurred_at": "occurred_at + interval '1 microsecond'",
    "details": "details || '{\"n\": -1}'",
    "break_glass_id": "id",
    "signature": "decode('00', 'hex')",
    "id": "gen_random_uuid()",
}


@pytest.mark.parametrize(("field", "value"), FIELDS.items())
async def test_an_edit_of_any_field_is_found(sealed: Plane, field: str, value: str) -> None:
    await tamper(
        sealed,
        f"UPDATE audit_events SET {field} = {value} WHERE id = (SELECT event_id FROM audit_seals WHERE seq = 7)",
    )
    first = (await verify(sealed)).first
    assert first is not None
    assert first.seq == 7


async def test_random_tamperings_are_all_found_and_named(sealed: Plane) -> None:
    seed = int(os.environ.get("SEED", random.randrange(2**32)))
    picker, found = random.Random(seed), dict.fromkeys(KINDS, 0)
    print(f"seed {seed}")  # noqa: T201 - to replay
    before = await snapshot(sealed)
    end = (await verify(sealed)).end
    for round_ in range(TAMPERINGS):
        kind = picker.choice(list(KINDS))
        statements, expected = KINDS[kind](picker, before)
        await tamper(sealed, *statements)
        if kind == "roll back":
            anchor.keep(sealed.settings, end)
        verdict = await verify(sealed)
        assert verdict.first is not None, f"seed {seed} round {round_}: {kind} was not found: {statements}"
        assert verdict.first.seq == expected, f"seed {seed} round {round_}: {kind}: {verdict.first}, not {expected}"
        await write(sealed, 1)
        await seal(sealed)
        assert (await verify(sealed)).breaks > 0, f"seed {seed} round {round_}: {kind} was healed by the next sweep"
        found[kind] += 1
        await restore(sealed, before)
        (spool.folder(sealed.settings) / anchor.FILE).unlink(missing_ok=True)
    assert (await verify(sealed)).breaks == 0, "restoring did not restore"
    print(f"{sum(found.values())} of {TAMPERINGS} tamperings found: {found}")  # noqa: T201 - the campaign's result


BARE = "action, plane, actor_kind, actor_display, subject_type"
Made = tuple[list[str], int | None]
Chain = dict[str, Any]


def _edit(picker: random.Random, before: Chain) -> Made:
    seq = picker.randint(1, LENGTH)
    field = picker.choice(list(FIELDS))
    return [f"UPDATE audit_events SET {field} = {FIELDS[field]} WHERE id = '{before['events'][seq]}'"], seq


def _delete_event(picker: random.Random, before: Chain) -> Made:
    seq = picker.randint(1, LENGTH)
    return [f"DELETE FROM audit_events WHERE id = '{before['events'][seq]}'"], seq


def _delete_seal(picker: random.Random, _before: Chain) -> Made:
    seq = picker.randint(1, LENGTH)
    return [f"DELETE FROM audit_seals WHERE seq = {seq}"], seq


def _delete_both(picker: random.Random, before: Chain) -> Made:
    seq = picker.randint(1, LENGTH)
    return [*_delete_event(random.Random(), before | {"events": dict.fromkeys(range(99), before["events"][seq])})[0],
            f"DELETE FROM audit_seals WHERE seq = {seq}"], seq  # fmt: skip


def _renumber(picker: random.Random, before: Chain) -> Made:
    """Delete one link and close the gap, as somebody would who hides a single act."""
    seq = picker.randint(1, LENGTH - 1)
    return [
        f"DELETE FROM audit_events WHERE id = '{before['events'][seq]}'",
        f"DELETE FROM audit_seals WHERE seq = {seq}",
        f"UPDATE audit_seals SET seq = -seq WHERE seq > {seq}",
        "UPDATE audit_seals SET seq = -seq - 1 WHERE seq < 0",
    ], seq


def _insert(picker: random.Random, before: Chain) -> Made:
    pick = before["events"][picker.randint(1, LENGTH)]
    copied = "action, plane, actor_kind, actor_display, subject_type, details, signature"
    return [
        f"INSERT INTO audit_events (id, {copied}) SELECT '{new_id()}', {copied} FROM audit_events WHERE id = '{pick}'"
    ], None


def _insert_with_seal(picker: random.Random, before: Chain) -> Made:
    event = new_id()
    pick = before["events"][picker.randint(1, LENGTH)]
    return [
        f"INSERT INTO audit_events (id, {BARE}) VALUES ('{event}', 'test.act', 'system', 'system', 'x', 'thing')",
        f"INSERT INTO audit_seals SELECT {LENGTH + 1}, '{event}', hmac, prev FROM audit_seals WHERE event_id = '{pick}'",
    ], LENGTH + 1


def _swap(picker: random.Random, before: Chain) -> Made:
    """Two acts change their places in the chain."""
    one, other = sorted(picker.sample(range(1, LENGTH + 1), 2))
    return [
        f"UPDATE audit_seals SET event_id = gen_random_uuid() WHERE seq = {one}",
        f"UPDATE audit_seals SET event_id = '{before['events'][one]}' WHERE seq = {other}",
        f"UPDATE audit_seals SET event_id = '{before['events'][other]}' WHERE seq = {one}",
    ], one


def _swap_seals(picker: random.Random, _before: Chain) -> Made:
    """Whole links change their numbers."""
    one, other = sorted(picker.sample(range(1, LENGTH + 1), 2))
    return [
        f"UPDATE audit_seals SET seq = -1 WHERE seq = {one}",
        f"UPDATE audit_seals SET seq = {one} WHERE seq = {other}",
        f"UPDATE audit_seals SET seq = {other} WHERE seq = -1",
    ], one


def _cut(picker: random.Random, _before: Chain) -> Made:
    left = picker.randint(0, LENGTH - 1)
    return [
        f"DELETE FROM audit_events WHERE id IN (SELECT event_id FROM audit_seals WHERE seq > {left})",
        f"DELETE FROM audit_seals WHERE seq > {left}",
    ], left + 1


def _roll_back(picker: random.Random, before: Chain) -> Made:
    """The cut tail with the old row of the head put back: only the anchor outside of the database knows."""
    left = picker.randint(1, LENGTH - 1)
    statements, expected = _cut(random.Random(0), before)
    cut = [statement.replace(f"> {expected - 1}", f"> {left}") for statement in statements]  # type: ignore[operator]
    link = before["hmacs"][left]
    mac = signing.head(before["settings"], left, link).hex()
    return [
        *cut,
        f"UPDATE audit_head SET seq = {left}, hmac = decode('{link.hex()}', 'hex'), mac = decode('{mac}', 'hex')",
    ], left + 1


def _drop_head(_picker: random.Random, _before: Chain) -> Made:
    return ["DELETE FROM audit_head"], LENGTH


KINDS: dict[str, Any] = {
    "edit": _edit,
    "delete event": _delete_event,
    "delete seal": _delete_seal,
    "delete both": _delete_both,
    "delete and renumber": _renumber,
    "insert": _insert,
    "insert with seal": _insert_with_seal,
    "reorder events": _swap,
    "reorder seals": _swap_seals,
    "cut the tail": _cut,
    "roll back": _roll_back,
    "drop the head": _drop_head,
}


async def snapshot(plane: Plane) -> Chain:
    async with plane.db.reading() as session:
        links = (await session.execute(text("SELECT seq, event_id, hmac FROM audit_seals ORDER BY seq"))).all()
    async with plane.db.transaction() as tx:
        await tx.session.execute(text("DROP SCHEMA IF EXISTS kept CASCADE"))
        await tx.session.execute(text("CREATE SCHEMA kept"))
        for table in TABLES:
            await tx.session.execute(text(f"CREATE TABLE kept.{table} AS TABLE {table}"))
    return {
        "events": {link.seq: link.event_id for link in links},
        "hmacs": {link.seq: link.hmac for link in links},
        "settings": plane.settings,
    }


TABLES = ("audit_events", "audit_seals", "audit_head", "audit_pending")


async def restore(plane: Plane, _before: Chain) -> None:
    statements = [f"TRUNCATE {', '.join(TABLES)}"]
    statements += [f"INSERT INTO {table} SELECT * FROM kept.{table}" for table in TABLES]
    await tamper(plane, *statements)


async def test_a_chain_made_anew_by_a_thief_of_the_key_contradicts_an_anchor(sealed: Plane) -> None:
    kept = (await verify(sealed)).end
    await tamper(
        sealed, "UPDATE audit_events SET reason_text = NULL", "TRUNCATE audit_seals, audit_head",
        "INSERT INTO audit_pending (event_id) SELECT id FROM audit_events",
    )  # fmt: skip
    async with sealed.db.transaction() as tx:
        await tx.session.execute(text(MIGHT))
        for event in (await tx.session.scalars(select(AuditEvent))).all():
            event.signature = signing.sign(sealed.settings, {c.name: getattr(event, c.name) for c in EVENT})
    await seal(sealed)
    (spool.folder(sealed.settings) / anchor.FILE).unlink()
    assert (await verify(sealed)).breaks == 0
    first = (await verify(sealed, kept)).first
    assert first is not None
    assert "anchor" in first.what


EVENT = AuditEvent.__table__.columns


async def test_an_event_that_opsplane_did_not_write_is_never_sealed(sealed: Plane) -> None:
    async with sealed.db.transaction() as tx:  # with the trigger: what any SQL client with INSERT can do
        forged = f"INSERT INTO audit_events (id, {BARE}) VALUES (:id, 'a', 'system', 'system', 'x', 't')"
        await tx.session.execute(text(forged), {"id": (event := new_id())})
    await write(sealed, 2)
    assert await seal(sealed) == 2
    first = (await verify(sealed)).first
    assert first is not None
    assert (first.seq, first.event_id) == (None, str(event))


async def test_a_genuine_event_that_is_kept_from_its_seal_is_found(sealed: Plane) -> None:
    await write(sealed, 1)
    await tamper(sealed, "UPDATE audit_pending SET rejected_at = now()")
    assert await seal(sealed) == 0
    first = (await verify(sealed)).first
    assert first is not None
    assert "kept from" in first.what


@pytest.mark.parametrize("cut", ["rolled back", "made anew", "forged end"])
async def test_nothing_is_sealed_onto_a_chain_that_this_host_knows_otherwise(sealed: Plane, cut: str) -> None:
    """Else the sealer itself would heal the chain, and replace the anchor that gives it away."""
    kept = anchor.kept(sealed.settings)
    async with sealed.db.reading() as session:
        link = (await session.execute(text("SELECT hmac FROM audit_seals WHERE seq = 30"))).scalar_one()
    mac = signing.head(sealed.settings, 30, link)
    left = 0 if cut == "made anew" else 30
    if cut != "forged end":
        await tamper(
            sealed, f"DELETE FROM audit_seals WHERE seq > {left}",
            "DELETE FROM audit_events WHERE subject_id = '35'",
            "INSERT INTO audit_pending (event_id) SELECT id FROM audit_events e "
            "WHERE NOT EXISTS (SELECT FROM audit_seals s WHERE s.event_id = e.id)",
        )  # fmt: skip
    end = "DELETE FROM audit_head" if cut == "made anew" else "UPDATE audit_head SET seq = 30, hmac = :hmac, mac = :mac"
    forged = b"forged" if cut == "forged end" else mac
    await tamper(sealed, end, **({} if cut == "made anew" else {"hmac": link, "mac": forged}))
    assert await seal(sealed) == 0
    assert anchor.kept(sealed.settings) == kept
    assert (await verify(sealed)).breaks > 0


async def test_events_without_a_signature_are_never_sealed_not_even_first(plane: Plane) -> None:
    """Else whoever empties the tables could fill them anew."""
    async with plane.db.transaction() as tx:
        row = "gen_random_uuid(), 'a', 'system', 'system', 'x', 't' FROM generate_series(1, 25)"
        await tx.session.execute(text(f"INSERT INTO audit_events (id, {BARE}) SELECT {row}"))
    assert await seal(plane) == 0
    assert (await verify(plane)).breaks == 25


async def test_a_pending_row_put_back_does_not_stop_the_sealer(sealed: Plane) -> None:
    await tamper(sealed, "INSERT INTO audit_pending (event_id) SELECT event_id FROM audit_seals WHERE seq <= 3")
    await write(sealed, 2)
    assert await seal(sealed) == 2
    verdict = await verify(sealed)
    assert (verdict.sealed, verdict.waiting, verdict.breaks) == (LENGTH + 2, 0, 0)


async def test_a_time_changed_before_the_seal_is_found(sealed: Plane) -> None:
    await write(sealed, 1)
    await tamper(
        sealed, "UPDATE audit_events SET occurred_at = '2001-01-01' WHERE id IN (SELECT event_id FROM audit_pending)"
    )
    assert (await verify(sealed)).breaks == 1
    assert await seal(sealed) == 1
    first = (await verify(sealed)).first
    assert first is not None
    assert (first.seq, first.what) == (LENGTH + 1, "its time was changed before it was sealed")


async def test_an_anchor_given_counts_beside_this_hosts_own(sealed: Plane) -> None:
    end = (await verify(sealed)).end
    assert (await verify(sealed, end)).breaks == 0
    assert (await verify(sealed, Anchor(end.seq, bytes(32)))).breaks == 1


async def test_a_link_of_another_history_does_not_follow(sealed: Plane) -> None:
    """Every link is right in itself, but the chain was spliced from two."""
    async with sealed.db.reading() as session:
        rows = await session.execute(
            select(*EVENT).join(AuditSeal, AuditSeal.event_id == AuditEvent.id).where(AuditSeal.seq == 20)
        )
        event = rows.one()._asdict()
    prev = b"p" * 32
    made = signing.link(sealed.settings, 20, prev, event).hex()
    await tamper(
        sealed,
        f"UPDATE audit_seals SET prev = decode('{prev.hex()}', 'hex'), hmac = decode('{made}', 'hex') WHERE seq = 20",
    )
    first = (await verify(sealed)).first
    assert first is not None
    assert (first.seq, first.what) == (20, "it does not follow the one before it")


async def test_a_process_with_another_key_seals_and_rejects_nothing(sealed: Plane) -> None:
    other = sealed.settings.model_copy(update={"audit_key": SecretStr("somebody else's key, of 32 characters or more")})
    await write(sealed, 2)
    async with sealed.db.transaction() as tx:
        assert await chain.seal(tx, other) == 0
    assert await seal(sealed) == 2
    assert (await verify(sealed)).breaks == 0


async def test_a_chain_in_doubt_is_told_to_the_alert_channels(sealed: Plane) -> None:
    await tamper(sealed, "DELETE FROM audit_head")
    for _ in range(2):
        assert await seal(sealed) == 0
    async with sealed.db.reading() as session:
        [alert] = await session.scalars(select(OutboxEvent))
    assert alert.kind == "audit.degraded"
    assert "opsplane audit verify" in alert.payload["what"]


async def test_an_anchor_is_read_as_it_is_written() -> None:
    one = Anchor(7, bytes(range(32)))
    assert Anchor.parse(str(one)) == one
    for bad in ("", "7", "x:00", "7:zz"):
        with pytest.raises(InvalidInput):
            Anchor.parse(bad)


TEXTS = st.text().filter(lambda written: "\0" not in written and written.isprintable())
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
DOCUMENTS = st.dictionaries(TEXTS, st.recursive(SCALARS, st.lists, max_leaves=5), max_size=5)


async def test_details_are_spelled_the_same_after_postgres_kept_them(plane: Plane) -> None:
    documents: list[dict[str, Any]] = [{"big": 1e20, "small": 5e-324, "minus": -0.0, "b": 1, "a": [1.5, 2.0, "é", {}]}]

    @given(DOCUMENTS)
    @hypothesis_settings(max_examples=300)
    def collect(document: dict[str, Any]) -> None:
        documents.append(document)

    collect()
    async with plane.db.reading() as session:
        for document in documents:
            kept = text("SELECT CAST(CAST(:d AS text) AS jsonb) AS d").columns(d=EVENT["details"].type)
            came_back = await session.scalar(kept, {"d": json.dumps(document)})
            assert _spelled(came_back) == _spelled(document)


def _spelled(document: object) -> str:
    return json.dumps(signing.plain(document), sort_keys=True)


@pytest.mark.parametrize("column", ["hmac", "mac"])
async def test_a_changed_row_of_the_head_is_found(sealed: Plane, column: str) -> None:
    await tamper(sealed, f"UPDATE audit_head SET {column} = decode('00', 'hex')")
    assert (await verify(sealed)).breaks == 1


async def test_the_head_says_where_the_chain_ends(sealed: Plane) -> None:
    async with sealed.db.reading() as session:
        head = (await session.scalars(select(AuditHead))).one()
    assert (head.seq, head.hmac) == (LENGTH, (await verify(sealed)).end.hmac)
