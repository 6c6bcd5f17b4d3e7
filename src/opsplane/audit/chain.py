"""The sealer: gives every event its place in a chain of HMACs, behind the back of business transactions."""

import asyncio
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Row, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.audit import alarm, anchor, metrics, signing
from opsplane.audit.anchor import Anchor
from opsplane.audit.models import AuditEvent, AuditHead, AuditPending, AuditSeal
from opsplane.config import Settings
from opsplane.db import Transaction

log = structlog.get_logger()

BATCH = 1000
MAX_BATCHES = 20
HEAD = 1  # the id of the one row
ANNOUNCE_EVERY = timedelta(hours=1)

NOT_OURS = "The audit holds events that opsplane did not write. Run `opsplane audit verify`; it names the first."
SHORTENED = "Audit events were stored without their details, because the database refused them; the log has them whole."

EVENT = AuditEvent.__table__.columns


async def seal(tx: Transaction, settings: Settings) -> int:
    """Seal what waits, in the order it happened; returns how many events.

    Events whose signature is not ours stay unsealed, for `verify` to name. Onto a chain that
    contradicts itself, or what this host knows of it, nothing is sealed: that would make a
    chain that was cut or made anew look whole, and forget the anchor that says otherwise.
    """
    head = await _head(tx.session, settings)
    if (doubt := await _doubt(tx.session, settings, head)) is not None:
        await _sound_the_alarm(tx.session, doubt)
        return 0
    sealed = 0
    for _ in range(MAX_BATCHES):
        waiting = await _waiting(tx.session)
        genuine = [row for row in waiting if _is_ours(settings, row)]
        await _reject(tx.session, {row.id for row in waiting} - {row.id for row in genuine})
        await _link(tx.session, settings, head, genuine)
        await _tell_of_shortened(tx.session, genuine)
        sealed += len(genuine)
        if len(waiting) < BATCH:
            break
    await _finish(tx, settings, head, sealed)
    return sealed


async def _head(session: AsyncSession, settings: Settings) -> AuditHead:
    """The row, locked; made anew if it is missing, which any seal that is there contradicts."""
    nothing_yet = {"id": HEAD, "seq": 0, "hmac": signing.FIRST, "mac": signing.head(settings, 0, signing.FIRST)}
    await session.execute(upsert(AuditHead).values(nothing_yet).on_conflict_do_nothing())
    return (await session.scalars(select(AuditHead).where(AuditHead.id == HEAD).with_for_update())).one()


async def _doubt(session: AsyncSession, settings: Settings, head: AuditHead) -> str | None:
    if not signing.same(head.mac, signing.head(settings, head.seq, head.hmac)):
        return "the row that says where the chain ends was changed, or made with another key"
    newest = select(AuditSeal.seq, AuditSeal.hmac).order_by(AuditSeal.seq.desc()).limit(1)
    last = (await session.execute(newest)).one_or_none()
    if (head.seq, head.hmac) != (tuple(last) if last else (0, signing.FIRST)):
        return f"the chain does not end at {head.seq}, where it did"
    known = anchor.kept(settings)
    if known is None:
        return None
    if known.seq > head.seq:
        return f"the chain ends at {head.seq}, but went on to {known.seq}; after a restore, move {anchor.FILE} away"
    kept = await session.scalar(select(AuditSeal.hmac).where(AuditSeal.seq == known.seq))
    return None if signing.same(kept, known.hmac) else f"link {known.seq} is not the one that was made here"


async def _sound_the_alarm(session: AsyncSession, doubt: str) -> None:
    metrics.refused.inc()
    log.critical("audit_not_sealed", why=doubt, next_move="opsplane audit verify")
    await alarm.raise_alarm(session, "not-sealed", f"Nothing is sealed: {doubt}. Run `opsplane audit verify`.")


async def _waiting(session: AsyncSession) -> Sequence[Row[*tuple[Any, ...]]]:
    events = (
        select(*EVENT)
        .join(AuditPending, AuditPending.event_id == AuditEvent.id)
        .where(AuditPending.rejected_at.is_(None), ~_sealed(AuditPending.event_id))
        .order_by(AuditEvent.occurred_at, AuditEvent.id)
        .limit(BATCH)
    )
    return (await session.execute(events)).all()


def _sealed(event_id: Any) -> ColumnElement[bool]:
    return select(AuditSeal.seq).where(AuditSeal.event_id == event_id).exists()


def _is_ours(settings: Settings, row: Row[*tuple[Any, ...]]) -> bool:
    return signing.same(row.signature, signing.sign(settings, row._asdict()))


async def _reject(session: AsyncSession, strangers: set[uuid.UUID]) -> None:
    if not strangers:
        return
    metrics.rejected.inc(len(strangers))
    log.critical("audit_events_not_ours", event_ids=sorted(map(str, strangers)))
    await session.execute(
        update(AuditPending).where(AuditPending.event_id.in_(strangers)).values(rejected_at=func.clock_timestamp())
    )
    await alarm.raise_alarm(session, "not-ours", NOT_OURS)


async def _tell_of_shortened(session: AsyncSession, events: Sequence[Row[*tuple[Any, ...]]]) -> None:
    """Here, and not where they are written: an act must not wait for another one's alarm."""
    if any("shortened" in event.details for event in events):
        await alarm.raise_alarm(session, "shortened", SHORTENED)


async def _link(
    session: AsyncSession, settings: Settings, head: AuditHead, events: Sequence[Row[*tuple[Any, ...]]]
) -> None:
    if not events:
        return
    links = []
    for event in events:
        prev, head.seq = head.hmac, head.seq + 1
        head.hmac = signing.link(settings, head.seq, prev, event._asdict())
        links.append({"seq": head.seq, "event_id": event.id, "prev": prev, "hmac": head.hmac})
    await session.execute(insert(AuditSeal), links)
    await session.execute(delete(AuditPending).where(AuditPending.event_id.in_([link["event_id"] for link in links])))


async def _finish(tx: Transaction, settings: Settings, head: AuditHead, sealed: int) -> None:
    await tx.session.execute(delete(AuditPending).where(_sealed(AuditPending.event_id)))  # somebody put them back
    if not sealed:
        return
    head.mac = signing.head(settings, head.seq, head.hmac)
    end = Anchor(head.seq, head.hmac)
    if await _announcement_is_due(tx.session, head):
        head.announced_at = await tx.session.scalar(select(func.clock_timestamp()))
        log.info("audit_sealed", anchor=str(end))
    await tx.session.flush()
    tx.after_commit.append(lambda: _keep(settings, end))


async def _announcement_is_due(session: AsyncSession, head: AuditHead) -> bool:
    if head.announced_at is None:
        return True
    return bool(await session.scalar(select(func.clock_timestamp() - ANNOUNCE_EVERY > head.announced_at)))


async def _keep(settings: Settings, end: Anchor) -> None:
    try:
        await asyncio.to_thread(anchor.keep, settings, end)
    except OSError as error:
        log.error("audit_anchor_not_kept", error=repr(error))  # noqa: TRY400 - the next seal keeps a newer one
