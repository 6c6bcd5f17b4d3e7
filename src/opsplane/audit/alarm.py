"""Tell the alert channels that the record is in trouble; in the outbox, once an hour for each kind of trouble."""

from datetime import UTC, datetime

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.alerts.models import OutboxEvent
from opsplane.db import new_id

DEGRADED = "audit.degraded"


async def raise_alarm(session: AsyncSession, trouble: str, what: str) -> None:
    """Put it in the outbox; `trouble` is a word, `what` a sentence for whoever is woken by it."""
    hour = datetime.now(UTC).strftime("%Y-%m-%dT%H")
    await session.execute(
        insert(OutboxEvent)
        .values(id=new_id(), kind=DEGRADED, dedupe_key=f"{DEGRADED}:{trouble}:{hour}", payload={"what": what})
        .on_conflict_do_nothing()
    )
