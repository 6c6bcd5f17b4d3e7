"""What an author writes: a `RepairRunbook` (which rows are wrong, what they become), or a `Runbook` by hand."""

import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from sqlalchemy import ColumnElement, Select, Uuid, bindparam, exists, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, class_mapper

from opsplane.direct import directly
from opsplane.errors import ConfigurationError
from opsplane.lookups import Lookup
from opsplane.runbooks import counting, estimating, indexes
from opsplane.runbooks.chunk import LOOK, Answer, Chunk, Cursor
from opsplane.runbooks.counting import Rows
from opsplane.runbooks.impact import Impact
from opsplane.runbooks.indexes import Index
from opsplane.runbooks.inlining import inlined
from opsplane.runbooks.statements import BITE, Statements
from opsplane.tenants.models import Tenant

PARTS = ("apply", "apply_together", "residue")  # of a chunk


class Retry(Exception):
    """Raised by `apply` to have the tenant tried again later; the chunk is rolled back."""


class Runbook(ABC):
    """A repair by hand: own count, own chunk. The framework still owns transactions, locks, loop and counts."""

    key: ClassVar[str]
    version: ClassVar[int] = 1
    title: ClassVar[str]
    description: ClassVar[str] = ""
    capability: ClassVar[str]
    confirmation_phrase: ClassVar[str]
    on_deploy: ClassVar[bool] = False
    lock_group: ClassVar[str | None] = None  # runbooks that write the same rows share one; default: the key
    bundled: ClassVar[bool] = True  # small tenants may share a transaction; False if `apply` acts outside of it

    @abstractmethod
    async def preflight(self, session: AsyncSession, tenants: Select[uuid.UUID]) -> Impact:
        """Count what would change in these tenants; the transaction is READ ONLY and has a time limit."""

    async def estimate(
        self,
        session: AsyncSession,  # noqa: ARG002 - the author's hook
        tenants: Select[uuid.UUID],  # noqa: ARG002
        *,
        within_s: float,  # noqa: ARG002
    ) -> Impact | None:
        """A quick guess with its margin, if `preflight` would take longer than `within_s`; None to have it counted."""
        return None

    @abstractmethod
    async def apply(self, session: AsyncSession, tenant: uuid.UUID, cursor: Cursor | None, limit: int) -> Chunk:
        """Repair at most `limit` rows of one tenant after `cursor`; it commits with its count, or not at all."""

    async def apply_together(self, session: AsyncSession, tenants: Sequence[uuid.UUID], limit: int) -> Sequence[Chunk]:
        """The chunks of the first of these tenants, at least of one; all but the last of them without a cursor.

        Together they repair at most `limit` rows. By default, each tenant is repaired by itself.
        """
        return [await self.apply(session, tenants[0], None, limit)]

    async def residue(self, session: AsyncSession, tenant: uuid.UUID) -> bool:  # noqa: ARG002 - the author's hook
        """Whether the tenant still has rows to repair after its last chunk; it is then gone over again."""
        return False

    def prepare(self) -> None:  # noqa: B027 - most have nothing to do
        """What takes a moment once: a worker does it as it starts, so that no run waits for it."""

    @classmethod
    def check(cls) -> None:
        """Refuse what cannot run safely, at start-up.

        Raises:
            ConfigurationError: one line naming the runbook and what it lacks.
        """
        for name in ("key", "title", "capability", "confirmation_phrase"):
            if not getattr(cls, name, None):
                raise ConfigurationError(f"The runbook {cls.__module__}.{cls.__qualname__} has no {name}.")


class RepairRunbook(Runbook):
    """A repair told by two expressions; count, chunk loop and proof all come from the one selector `wrong`."""

    table: ClassVar[type[DeclarativeBase]]
    tenant_column: ClassVar[str] = "tenant_id"

    @abstractmethod
    def wrong(self) -> ColumnElement[bool]:
        """Which rows must change; the tenant is added by the framework."""

    @abstractmethod
    def right(self) -> Mapping[InstrumentedAttribute[Any], Any]:
        """What they become; expressions see the row as it was. Afterwards `wrong` must be false."""

    async def preflight(self, session: AsyncSession, tenants: Select[uuid.UUID]) -> Impact:
        """One `GROUP BY tenant` statement, written as the planner likes it best."""
        return await counting.count(session, self.rows(tenants))

    async def estimate(self, session: AsyncSession, tenants: Select[uuid.UUID], *, within_s: float) -> Impact | None:
        """From blocks spread over the table."""
        return await estimating.estimate(session, self.rows(tenants), within_s=within_s)

    def index(self) -> Index | None:
        """The index that makes preflights quick; `opsplane doctor` offers it, nothing creates it. None: offer none."""
        return indexes.partial(self.key, self.wrong(), on=(self.tenant_column, self._key.key))

    def rows(self, tenants: Select[uuid.UUID] | None = None) -> Rows:
        """What its preflight looks at; of every tenant, if none are named."""
        return Rows(self.table, self._tenant, self.wrong(), select(Tenant.id) if tenants is None else tenants)

    async def apply(self, session: AsyncSession, tenant: uuid.UUID, cursor: Cursor | None, limit: int) -> Chunk:
        """The next `limit` wrong rows of the tenant by primary key, among its next `LOOK * limit`, bite by bite.

        The tenant is proven right if every row that was found wrong was changed, and is right now.
        """
        done = await self._bite(session, tenant, cursor, min(limit, BITE))
        while done.cursor is not None and done.took < limit:
            done = done.then(await self._bite(session, tenant, done.cursor, min(limit - done.took, BITE)))
        return done

    async def _bite(self, session: AsyncSession, tenant: uuid.UUID, cursor: Cursor | None, limit: int) -> Chunk:
        given: dict[str, Any] = {"tenants": [tenant], "limit": limit, "window": limit * LOOK}
        if cursor is None:
            return Answer(await directly(session, self.statements.first, **given), limit).chunk(self.statements.encode)
        after = self.statements.decode(cursor["after"])
        rows = await directly(session, self.statements.following, **given, after=after)
        return Answer(rows, limit).chunk(self.statements.encode).knowing(cursor)

    async def residue(self, session: AsyncSession, tenant: uuid.UUID) -> bool:
        """The proof: does the selector still find a row of this tenant?"""
        [row] = await directly(session, self._proof, tenant=tenant)
        return bool(row["found"])

    def prepare(self) -> None:
        """Put its statements together, but for those that a worker joins with its own."""
        _ = self._proof
        if not self.is_one_statement:
            _ = self.statements.first, self.statements.following

    @cached_property
    def statements(self) -> Statements:
        """What finds the wrong rows of tenants, and puts them right."""
        right = {column.key: inlined(value) for column, value in self.right().items()}
        return Statements(table=self.table, tenant=self._tenant, key=self._key, wrong=self._wrong, right=right)

    @property
    def is_one_statement(self) -> bool:
        """Whether a worker may join its `statements` with leases and counts: no part of the chunk is code."""
        by_hand = any(getattr(type(self), part) is not getattr(RepairRunbook, part) for part in PARTS)
        return self.bundled and not by_hand

    @classmethod
    def check(cls) -> None:
        """Refuse a table that has no tenant column or not exactly one key column, and a repair of either."""
        super().check()
        columns = class_mapper(cls.table).columns
        if cls.tenant_column not in columns:
            raise ConfigurationError(
                f"The runbook {cls.key} forgets the tenant: {cls.table.__name__} has no column {cls.tenant_column}."
            )
        keys = class_mapper(cls.table).primary_key
        if len(keys) != 1:
            raise ConfigurationError(f"The runbook {cls.key} needs a table with one primary key column.")
        repaired = {column.key for column in cls().right()}
        if repaired & {cls.tenant_column, keys[0].key} or not repaired:
            raise ConfigurationError(f"The runbook {cls.key} must repair columns other than the key and the tenant.")

    @cached_property
    def _tenant(self) -> Any:
        return getattr(self.table, self.tenant_column)

    @cached_property
    def _key(self) -> Any:
        mapper = class_mapper(self.table)
        return getattr(self.table, mapper.get_property_by_column(mapper.primary_key[0]).key)

    @cached_property
    def _wrong(self) -> ColumnElement[bool]:
        wrong: ColumnElement[bool] = inlined(self.wrong())
        return wrong

    @cached_property
    def _here(self) -> ColumnElement[bool]:
        here: ColumnElement[bool] = self._tenant == bindparam("tenant", type_=Uuid())
        return here

    @cached_property
    def _proof(self) -> Lookup:
        found = exists(select(1).select_from(self.table).where(self._here, self._wrong))
        return Lookup.of(select(found.label("found")))
