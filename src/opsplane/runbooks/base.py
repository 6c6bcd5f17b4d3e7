"""What an author writes: a `RepairRunbook` (which rows are wrong, what they become), or a `Runbook` by hand."""

import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnClause,
    ColumnElement,
    Select,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    column,
    exists,
    func,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, class_mapper

from opsplane.errors import ConfigurationError
from opsplane.runbooks import counting, estimating, indexes
from opsplane.runbooks.counting import Rows
from opsplane.runbooks.impact import Impact
from opsplane.runbooks.indexes import Index
from opsplane.runbooks.inlining import inlined
from opsplane.tenants.models import Tenant

Cursor = dict[str, Any]

LOOK = 10  # rows that a chunk may look at, for each that it may change


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """What one chunk did; `cursor` is where the next one goes on (JSON), None when there is no next one.

    `effort` is the part of its limit that it took, from which the next limit follows; None means `updated`.
    `proven` says that `residue` need not be asked after it.
    """

    updated: int
    cursor: Cursor | None
    errors: int = 0
    effort: int | None = None
    proven: bool = False


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

    async def residue(self, session: AsyncSession, tenant: uuid.UUID) -> bool:  # noqa: ARG002 - the author's hook
        """Whether the tenant still has rows to repair after its last chunk; it is then gone over again."""
        return False

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
    """A repair in two statements; count, chunk loop and proof all come from the one selector `wrong`."""

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
        """The next `limit` wrong rows of the tenant by primary key, among its next `LOOK * limit`; one statement.

        The tenant is proven right if every row that was found wrong was changed, and is right now.
        """
        parameters: dict[str, Any] = {"tenant": tenant, "limit": limit, "window": limit * LOOK}
        if cursor is not None:
            parameters["after"] = self._decode(cursor["after"])
        statement = self._first_chunk if cursor is None else self._next_chunk
        connection = await session.connection()
        found, looked_at, updated, still_wrong, last = (await connection.execute(statement, parameters)).one()
        unsure = bool(still_wrong) or updated < found or (cursor or {}).get("unsure", False)
        over = found < limit and looked_at < limit * LOOK
        return Chunk(
            updated=updated,
            cursor=None if over else {"after": self._encode(last)} | ({"unsure": True} if unsure else {}),
            effort=max(found, (looked_at or 0) // LOOK),
            proven=over and not unsure,
        )

    async def residue(self, session: AsyncSession, tenant: uuid.UUID) -> bool:
        """The proof: does the selector still find a row of this tenant?"""
        return bool(await session.scalar(self._proof, {"tenant": tenant}))

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
    def _proof(self) -> Select[bool]:
        return select(exists(select(1).select_from(self.table).where(self._here, self._wrong)))

    @cached_property
    def _first_chunk(self) -> Select[Any]:
        return self._chunk(self._here)

    @cached_property
    def _next_chunk(self) -> Select[Any]:
        return self._chunk(and_(self._here, self._key > bindparam("after", type_=self._key.type)))

    def _chunk(self, selected: ColumnElement[bool]) -> Select[Any]:
        # PostgreSQL reads `looked_at` only as far as `found` needs it, in the order of its index: where many rows are
        # wrong, few are looked at, and where few are wrong, no more than the window, so that no chunk takes long.
        place = self._place
        looked_at = (
            select(place.label("place"), self._key.label("key"), self._wrong.label("wrong"))
            .where(selected)
            .order_by(self._key)
            .limit(bindparam("window", type_=BigInteger()))
            .cte("looked_at")
            .prefix_with("MATERIALIZED")
        )
        limit = bindparam("limit", type_=BigInteger())
        found = select(looked_at.c.place, looked_at.c.key).where(looked_at.c.wrong).limit(limit).cte("found")
        # The UPDATE repeats the selector: a row that somebody repaired meanwhile is neither written nor counted.
        changed = (
            update(self.table)
            .values({column.key: inlined(value) for column, value in self.right().items()})
            .where(place == any_(func.array(select(found.c.place).scalar_subquery())), self._here, self._wrong)
            .returning(self._wrong.label("still"))
            .cte("changed")
        )
        return _summary(found, looked_at, changed, limit)

    @cached_property
    def _place(self) -> ColumnElement[Any]:
        place: ColumnClause[Any] = column("ctid")
        place.table = self.table.__table__
        return place

    def _encode(self, key: Any) -> Any:
        return key if isinstance(key, int) else str(key)

    def _decode(self, key: Any) -> Any:
        return key if isinstance(key, int) else self._key.type.python_type(key)


def _summary(found: CTE, looked_at: CTE, changed: CTE, limit: ColumnElement[int]) -> Select[Any]:
    def rows(cte: CTE) -> ColumnElement[int]:
        return select(func.count()).select_from(cte).scalar_subquery()

    def last(cte: CTE) -> ColumnElement[Any]:
        return select(cte.c.key).order_by(cte.c.key.desc()).limit(1).scalar_subquery()

    enough = rows(found) >= limit
    return select(
        rows(found),
        case((enough, None), else_=rows(looked_at)),
        rows(changed),
        select(func.count()).where(changed.c.still).scalar_subquery(),
        case((enough, last(found)), else_=last(looked_at)),
    )
