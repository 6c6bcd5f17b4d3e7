"""Tell the alert channels that the record is in trouble; in the outbox, once an hour for each kind of trouble."""

from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from opsplane import outbox
from opsplane.db import Database
from opsplane.outbox import Kind, Severity

_due: dict[str, str] = {}


async def raise_alarm(session: AsyncSession, trouble: str, what: str) -> None:
    """Put it in the outbox; `trouble` is a word, `what` a sentence for whoever is woken by it."""
    hour = datetime.now(UTC).strftime("%Y-%m-%dT%H")
    await outbox.emit(
        session, Kind.AUDIT_DEGRADED, f"{trouble}:{hour}", Severity.CRITICAL, {"trouble": trouble, "what": what}
    )


def raise_later(trouble: str, what: str) -> None:
    """Have the next sweep of this process raise it: the transaction at hand is somebody's work, and must not wait."""
    _due[trouble] = what


async def raise_due(db: Database) -> None:
    """Raise what is due; if that fails, it stays due."""
    for trouble, what in list(_due.items()):
        async with db.transaction() as tx:
            await raise_alarm(tx.session, trouble, what)
        _due.pop(trouble, None)
