"""Runbooks whose every act leaves a row in `effects`, so that doing something twice cannot hide."""

import asyncio
import os
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar

from sqlalchemy import ColumnElement, Integer, Select, cast, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Mapped, mapped_column

from opsplane import Chunk, Cursor, Impact, RepairRunbook, Retry, Runbook, register
from opsplane.findings.models import Finding
from opsplane.tenants.models import Tenant

ROWS = 40


class Effects(Runbook):
    """Writes ROWS numbered rows per tenant, `limit` at a time."""

    title = "Effects"
    capability = "platform.runbooks.test.effects"
    confirmation_phrase = "BACKFILL"
    chunk = 10
    pause_s = 0.0

    async def preflight(self, session: AsyncSession, tenants: Select[uuid.UUID]) -> Impact:
        count = await session.scalar(select(func.count()).select_from(tenants.subquery())) or 0
        return Impact(affected=count * ROWS, total=count * ROWS, tenants=count)

    async def apply(self, session: AsyncSession, tenant: uuid.UUID, cursor: Cursor | None, limit: int) -> Chunk:
        first = cursor["next"] if cursor else 0
        last = min(first + min(self.chunk, limit), ROWS)
        await self.act(session, tenant, first)
        await session.execute(
            text("INSERT INTO effects (tenant_id, n) SELECT :tenant, generate_series(:first ::int, :last ::int)"),
            {"tenant": tenant, "first": first, "last": last - 1},
        )
        await asyncio.sleep(self.pause_s)
        return Chunk(updated=last - first, cursor={"next": last} if last < ROWS else None)

    async def act(self, session: AsyncSession, tenant: uuid.UUID, first: int) -> None:
        """What a test wants to happen in the middle."""

    async def is_called(self, session: AsyncSession, tenant: uuid.UUID, name: str) -> bool:
        """Whether the tenant has this external id."""
        return bool(await session.scalar(select(Tenant.external_id == name).where(Tenant.id == tenant)))


@register
class Plain(Effects):
    """A tenant at a time, a transaction for each call."""

    key = "test.effects.plain"
    bundled = False


@register
class Slow(Effects):
    key = "test.effects.slow"
    pause_s = 0.3


@register
class FailsForGlobex(Effects):
    key = "test.effects.fails"

    async def act(self, session: AsyncSession, tenant: uuid.UUID, first: int) -> None:
        if first >= 20 and await self.is_called(session, tenant, "globex"):
            raise ValueError("globex is broken\nDETAIL: bob@globex.example")


@register
class CannotReachForGlobex(Effects):
    key = "test.effects.unreachable"

    async def act(self, session: AsyncSession, tenant: uuid.UUID, first: int) -> None:
        if await self.is_called(session, tenant, "globex"):
            raise ConnectionRefusedError("the billing service is away")


@register
class TransientForGlobex(Effects):
    key = "test.effects.transient"

    async def act(self, session: AsyncSession, tenant: uuid.UUID, first: int) -> None:
        if await self.is_called(session, tenant, "globex"):
            raise Retry("not yet")


@register
class Poison(Effects):
    key = "test.effects.poison"
    chunk = ROWS
    pause_s = 1.0  # nobody else gets a chunk done before globex has killed them all

    async def act(self, session: AsyncSession, tenant: uuid.UUID, first: int) -> None:
        if await self.is_called(session, tenant, "globex"):
            os._exit(9)


@register
class Small(Effects):
    key = "test.effects.small"
    chunk = ROWS


@register
class SmallByItself(Effects):
    key = "test.effects.by_itself"
    chunk = ROWS
    bundled = False


@register
class SmallFailsForGlobex(Effects):
    key = "test.effects.small_fails"
    chunk = ROWS

    async def act(self, session: AsyncSession, tenant: uuid.UUID, first: int) -> None:
        if await self.is_called(session, tenant, "globex"):
            await session.execute(text("SELECT 1 / 0"))


@register
class SmallTransientForGlobex(Effects):
    key = "test.effects.small_transient"
    chunk = ROWS

    async def act(self, session: AsyncSession, tenant: uuid.UUID, first: int) -> None:
        if await self.is_called(session, tenant, "globex"):
            raise Retry("not yet")


@register
class LargeGlobex(Effects):
    key = "test.effects.large_globex"

    async def apply(self, session: AsyncSession, tenant: uuid.UUID, cursor: Cursor | None, limit: int) -> Chunk:
        large = await self.is_called(session, tenant, "globex")
        return await super().apply(session, tenant, cursor, 10 if large else limit)

    chunk = ROWS


@register
class BreaksAtTheCommit(Effects):
    """The database finds out about globex when it is too late to say which tenant it was."""

    key = "test.effects.breaks_late"
    chunk = ROWS

    async def act(self, session: AsyncSession, tenant: uuid.UUID, first: int) -> None:
        if await self.is_called(session, tenant, "globex"):
            await session.execute(
                text("CREATE TEMP TABLE late (n int UNIQUE DEFERRABLE INITIALLY DEFERRED) ON COMMIT DROP")
            )
            await session.execute(text("INSERT INTO late VALUES (1), (1)"))


@register
class ByTitle(RepairRunbook):
    """The title says what becomes of `sla_days`: a number that is right, 0 that stays wrong, or what is no number."""

    key = "test.repairs.by_title"
    title = "By title"
    capability = "platform.runbooks.test.effects"
    confirmation_phrase = "BACKFILL"
    table = Finding

    def wrong(self) -> ColumnElement[bool]:
        return or_(Finding.sla_days.is_(None), Finding.sla_days == 0)

    def right(self) -> Mapping[InstrumentedAttribute[Any], Any]:
        return {Finding.sla_days: cast(Finding.title, Integer)}


@register
class ByTitleAndHand(ByTitle):
    """Its author looks by hand whether a tenant is done."""

    key = "test.repairs.by_title_and_hand"
    sessions: ClassVar[set[type]] = set()

    async def residue(self, session: AsyncSession, tenant: uuid.UUID) -> bool:
        self.sessions.add(type(session))
        wrong = select(func.count()).where(Finding.tenant_id == tenant, self.wrong())
        return bool(await session.scalar(wrong))


class Base(DeclarativeBase):
    """Tables of tests."""


class Part(Base):
    """A table that a test makes, in partitions."""

    __tablename__ = "parts"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[uuid.UUID]
    broken: Mapped[bool]


@register
class Partitioned(RepairRunbook):
    key = "test.repairs.partitioned"
    title = "Partitioned"
    capability = "platform.runbooks.test.effects"
    confirmation_phrase = "BACKFILL"
    table = Part

    def wrong(self) -> ColumnElement[bool]:
        return Part.broken.is_(True)

    def right(self) -> Mapping[InstrumentedAttribute[Any], Any]:
        return {Part.broken: False}


@register
class Commits(Effects):
    """Looks how its transactions will be committed."""

    key = "test.effects.commits"
    chunk = ROWS
    seen: ClassVar[list[str]] = []

    async def act(self, session: AsyncSession, tenant: uuid.UUID, first: int) -> None:
        self.seen.append(str(await session.scalar(text("SELECT current_setting('synchronous_commit')"))))


@register
class CommitsAlone(Commits):
    key = "test.effects.commits_alone"
    bundled = False
    seen: ClassVar[list[str]] = []
