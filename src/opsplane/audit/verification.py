"""Whether the record is whole: walks the chain and names the first event that is not as opsplane wrote it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.audit import anchor, signing
from opsplane.audit.anchor import Anchor
from opsplane.audit.models import AuditEvent, AuditHead, AuditPending, AuditSeal
from opsplane.config import Settings
from opsplane.db import Database

AnyRow = Row[*tuple[Any, ...]]
EVENT = AuditEvent.__table__.columns
FETCH = 2000
CLOCKS_AGREE_WITHIN = timedelta(hours=1)


@dataclass(frozen=True)
class Break:
    """Something that is not as it was written; `seq` is its place in the chain, if it has one."""

    seq: int | None
    event_id: str | None
    what: str


@dataclass
class Verdict:
    """What was found; `first` is the first break by place in the chain, then those outside of it."""

    sealed: int = 0
    waiting: int = 0
    end: Anchor = field(default_factory=lambda: Anchor(0, signing.FIRST))
    breaks: int = 0
    first: Break | None = None

    def found(self, seq: int | None, event_id: object | None, what: str) -> None:
        """Count a break."""
        self.breaks += 1
        if self.first is None:
            self.first = Break(seq, None if event_id is None else str(event_id), what)


async def verify(db: Database, settings: Settings, *given: Anchor) -> Verdict:
    """Check every event, seal and the end of the chain, against `given` anchors and this host's own too.

    Reads one snapshot, in batches: memory does not grow with the record, and work goes on meanwhile.
    """
    ours = anchor.kept(settings)  # before the snapshot: a seal made after it must not look like a cut
    anchors = [*given, *([ours] if ours else [])]
    verdict = Verdict()
    async with db.reading() as session:
        await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        known = {(one.seq, one.hmac) for one in anchors}
        anchored = {one.seq for one in anchors}
        async for link in _links(session):
            _check_link(verdict, settings, link)
            if link.seq in anchored and any(seq == link.seq and hmac != link.hmac for seq, hmac in known):
                verdict.found(link.seq, link.event_id, "an anchor says otherwise: the chain was made anew from here")
            verdict.end, verdict.sealed = Anchor(link.seq, link.hmac), verdict.sealed + 1
        _check_end(verdict, settings, await session.scalar(select(AuditHead)), anchors)
        await _check_unsealed(verdict, settings, session)
    return verdict


def _check_link(verdict: Verdict, settings: Settings, link: AnyRow) -> None:
    expected = verdict.end.seq + 1
    if link.seq != expected:
        verdict.found(expected, None, f"its seal is missing, and {link.seq - expected - 1} after it")
    elif link.id is None:
        verdict.found(link.seq, link.event_id, "the event is missing")
    elif not signing.same(link.hmac, signing.link(settings, link.seq, link.prev, link._asdict())):
        verdict.found(link.seq, link.event_id, "the event or its seal was changed, or moved from another place")
    elif _is_displaced(link):
        verdict.found(link.seq, link.event_id, "its time was changed before it was sealed")
    elif link.prev != verdict.end.hmac:
        verdict.found(link.seq, link.event_id, "it does not follow the one before it")


def _check_end(verdict: Verdict, settings: Settings, head: AuditHead | None, anchors: list[Anchor]) -> None:
    end = verdict.end
    for known in anchors:
        if known.seq > end.seq:
            verdict.found(end.seq + 1, None, f"the end was cut off: an anchor knows the chain up to {known.seq}")
    if head is None:
        if end.seq or anchors:
            verdict.found(end.seq, None, "the row that says where the chain ends is missing")
    elif not signing.same(head.mac, signing.head(settings, head.seq, head.hmac)):
        verdict.found(end.seq, None, "the row that says where the chain ends was changed")
    elif head.seq > end.seq:
        verdict.found(end.seq + 1, None, f"the end was cut off: the chain went on to {head.seq}")
    elif head.seq < end.seq or head.hmac != end.hmac:
        verdict.found(head.seq + 1, None, f"seals were added after the end of the chain, which is {head.seq}")


async def _check_unsealed(verdict: Verdict, settings: Settings, session: AsyncSession) -> None:
    async for event in _unsealed(session):
        if not signing.same(event.signature, signing.sign(settings, event._asdict())):
            verdict.found(None, event.id, "it was not written by opsplane, or changed before it was sealed")
        elif _is_displaced(event):
            verdict.found(None, event.id, "its time was changed")
        elif event.event_id is None or event.rejected_at is not None:
            verdict.found(None, event.id, "it has no seal, and was kept from getting one")
        else:
            verdict.waiting += 1


def _is_displaced(event: AnyRow) -> bool:
    """Whether the time is far from the one in the id, which is signed when the event is written (UUIDv7)."""
    made = datetime.fromtimestamp(int.from_bytes(event.id.bytes[:6]) / 1000, UTC)
    return bool(abs(event.occurred_at - made) > CLOCKS_AGREE_WITHIN)


async def _links(session: AsyncSession) -> AsyncIterator[AnyRow]:
    links = (
        select(AuditSeal.seq, AuditSeal.event_id, AuditSeal.prev, AuditSeal.hmac, *EVENT)
        .outerjoin(AuditEvent, AuditEvent.id == AuditSeal.event_id)
        .order_by(AuditSeal.seq)
    )
    async for row in await session.stream(links, execution_options={"yield_per": FETCH}):
        yield row


async def _unsealed(session: AsyncSession) -> AsyncIterator[AnyRow]:
    events = (
        select(AuditPending.event_id, AuditPending.rejected_at, *EVENT)
        .select_from(AuditEvent)
        .outerjoin(AuditPending, AuditPending.event_id == AuditEvent.id)
        .where(~select(AuditSeal.seq).where(AuditSeal.event_id == AuditEvent.id).exists())
        .order_by(AuditEvent.occurred_at, AuditEvent.id)
    )
    async for row in await session.stream(events, execution_options={"yield_per": FETCH}):
        yield row
