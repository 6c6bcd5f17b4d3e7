"""The bell: what became of the runs that somebody started, told to them until they have read it."""

import uuid
from typing import Any

from sqlalchemy import func, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from opsplane.alerts.models import Notification
from opsplane.auth.models import PlatformUser
from opsplane.db import new_id
from opsplane.outbox import Kind, Severity

MANY = 100


async def notify(
    session: AsyncSession,
    user_id: uuid.UUID,
    run_id: uuid.UUID,
    kind: Kind,
    severity: Severity,
    payload: dict[str, Any],
) -> None:
    """Tell a platform user of a run, once; an account that is gone is told nothing."""
    told = select(
        literal(new_id()), PlatformUser.id, literal(run_id), literal(str(kind)), literal(str(severity)),
        literal(payload, Notification.payload.type),
    ).where(PlatformUser.id == user_id)  # fmt: skip
    columns = ["id", "user_id", "run_id", "kind", "severity", "payload"]
    await session.execute(insert(Notification).from_select(columns, told).on_conflict_do_nothing())


async def newest(
    session: AsyncSession, user_id: uuid.UUID, *, before: uuid.UUID | None, limit: int
) -> list[Notification]:
    """What the user was told, newest first."""
    found = select(Notification).where(Notification.user_id == user_id).order_by(Notification.id.desc()).limit(limit)
    if before is not None:
        found = found.where(Notification.id < before)
    return list(await session.scalars(found))


async def unread(session: AsyncSession, user_id: uuid.UUID) -> int:
    """How much of it they have not read; a hundred stands for more."""
    mine = select(literal(1)).where(Notification.user_id == user_id, Notification.read_at.is_(None))
    return await session.scalar(select(func.count()).select_from(mine.limit(MANY).subquery())) or 0


async def mark_read(session: AsyncSession, user_id: uuid.UUID, notification_id: uuid.UUID | None = None) -> bool:
    """Mark one of the user's notifications as read, or all that are not; False if they have no such one."""
    which = Notification.read_at.is_(None) if notification_id is None else Notification.id == notification_id
    read_at = func.coalesce(Notification.read_at, func.clock_timestamp())
    mine = update(Notification).where(Notification.user_id == user_id, which).values(read_at=read_at)
    return bool((await session.execute(mine.returning(literal(1)))).first())
