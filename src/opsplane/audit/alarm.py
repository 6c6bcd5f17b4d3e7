"""Tell the alert channels that the record is in trouble; in the outbox, once an hour for each kind of trouble."""

from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from opsplane import outbox
from opsplane.outbox import Kind, Severity


async def raise_alarm(session: AsyncSession, trouble: str, what: str) -> None:
    """Put it in the outbox; `trouble` is a word, `what` a sentence for whoever is woken by it."""
    hour = datetime.now(UTC).strftime("%Y-%m-%dT%H")
    await outbox.emit(
        session, Kind.AUDIT_DEGRADED, f"{trouble}:{hour}", Severity.CRITICAL, {"trouble": trouble, "what": what}
    )
