"""The database: engine, mapping base, and the transaction that every door opens."""

import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

import asyncpg
import structlog
import uuid_utils.compat
from sqlalchemy import BigInteger, DateTime, MetaData, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase

from opsplane import connections, direct
from opsplane.config import Pooler, Settings
from opsplane.direct import Bare, Begun
from opsplane.errors import InvalidInput, OpsplaneError, ServiceUnavailable
from opsplane.lookups import Lookup, Lookups, Rows

log = structlog.get_logger()

NUL_IN_TEXT = "22021"
TRANSIENT = frozenset({"40001", "40P01", "55P03", "57014", "25P03", "53100", "53200"})  # may succeed when tried again
RACES = frozenset({"23P01", "40P01", "55P03"})  # exclusion constraint, deadlock, lock timeout
# A startup parameter was refused, or a prepared statement is not where it was made: the marks of a pooler.
POOLED = {"08P01", "26000", "42P05"}
NOT_THERE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.InternalClientError,  # of a connection that was lost in the middle of something
)
AFTER_COMMIT = "after_commit"
MOST_LOOKUPS = 4  # at once: they are short, and more of them than that keep no server busier
VERSION_TABLE = "opsplane_schema_version"  # beside the application's own alembic_version


class Base(DeclarativeBase):
    """Maps Python types to columns once: times carry a zone, text is text, documents are jsonb."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        str: Text(),
        int: BigInteger(),
        uuid.UUID: Uuid(),
        dict[str, Any]: JSONB(none_as_null=True),
        list[dict[str, Any]]: JSONB(none_as_null=True),
    }


def new_id() -> uuid.UUID:
    """A UUIDv7: sorts by the time it was made."""
    return uuid_utils.compat.uuid7()


def first_id_at(moment: datetime) -> uuid.UUID:
    """The smallest id that could have been made then: ids older than a time are found by the primary key."""
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80)


@dataclass
class Transaction:
    """One unit of work; what `after_commit` holds runs once the rows are durable, and never if they are not."""

    session: AsyncSession
    after_commit: list[Callable[[], Awaitable[None]]] = field(default_factory=list)


class Database:
    """An engine and its transactions, for one process."""

    def __init__(
        self,
        settings: Settings,
        *,
        application: str = "opsplane",
        statement_timeout_s: int | None = None,
        looks_up: bool = False,
    ) -> None:
        share = min(MOST_LOOKUPS, settings.pool_size // 2)
        self.engine = connections.engine(
            settings, application=application, statement_timeout_s=statement_timeout_s, apart=share if looks_up else 0
        )
        self._lookups = Lookups(
            self.engine, share, connections.patience_s(statement_timeout_s), settings.database_pooler is not Pooler.NONE
        )
        self._sessions = async_sessionmaker(
            self.engine, expire_on_commit=False, autoflush=False, info={"settings": settings}
        )
        self._settings = settings
        self._shares = (settings.pool_size - share, share) if looks_up else (settings.pool_size, 0)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commit on success, roll back on any exception, then run `after_commit`.

        Raises:
            ServiceUnavailable: the database cannot be reached.
        """
        with_reach = translate_unreachable()
        async with with_reach, self._sessions.begin() as session:
            tx = Transaction(session, session.info.setdefault(AFTER_COMMIT, []))
            yield tx
        for send in tx.after_commit:
            await send()

    @asynccontextmanager
    async def bare(self, *, each_alone: bool = False) -> AsyncIterator[Bare]:
        """A `transaction` for `Lookup`s only, or one for each of them: it costs a fraction of one that has a session.

        Raises:
            ServiceUnavailable: the database cannot be reached.
        """
        then: list[Callable[[], Awaitable[None]]] = []
        info = {"settings": self._settings, AFTER_COMMIT: then}
        async with translate_unreachable(), direct.bare(self.engine, info, each_alone=each_alone) as bare:
            yield bare
        for send in then:
            await send()

    @asynccontextmanager
    async def reading(self, *, timeout_s: float | None = None) -> AsyncIterator[AsyncSession]:
        """A READ ONLY transaction; a statement over `timeout_s` is cancelled by the database."""
        async with translate_unreachable(), self._sessions() as session:
            await session.execute(text("SET TRANSACTION READ ONLY"))
            if timeout_s is not None:
                await connections.allow(session, timeout_s)
                await session.execute(
                    text("SELECT set_config('statement_timeout', :ms, true)"), {"ms": str(int(timeout_s * 1000))}
                )
            yield session

    async def look(self, wanted: Lookup, **given: Any) -> Rows:
        """The rows of one statement that only reads; it sees what was committed before it, like any other.

        Raises:
            ServiceUnavailable: the database cannot be reached.
        """
        try:
            return await self._lookups.rows(wanted, given)
        except Exception as error:
            if (refusal := _translated(error)) is not None:
                raise refusal from error
            raise

    async def warm(self) -> None:
        """Open half of the connections: the first who come, when many come at once, do not wait for them.

        Raises:
            ServiceUnavailable: the database cannot be reached.
        """
        sessions, lookups = self._shares
        async with translate_unreachable():
            await self._lookups.warm(lookups // 2)  # which takes connections out of the pool
        async with contextlib.AsyncExitStack() as held:
            for _ in range(sessions // 2):
                await held.enter_async_context(self.bare())

    async def close(self) -> None:
        """Close every connection."""
        await self._lookups.close()
        await self.engine.dispose()


@asynccontextmanager
async def savepoint(session: Begun) -> AsyncIterator[None]:
    """What fails inside undoes no more than itself."""
    await direct.run(session, "SAVEPOINT attempt")
    try:
        yield
    except BaseException as error:
        if not is_unreachable(error):
            await direct.run(session, "ROLLBACK TO SAVEPOINT attempt; RELEASE SAVEPOINT attempt")
        raise
    await direct.run(session, "RELEASE SAVEPOINT attempt")


def after_commit(session: Begun, act: Callable[[], Awaitable[None]]) -> None:
    """Add to a transaction's `after_commit`, for those who are given its session alone."""
    session.info[AFTER_COMMIT].append(act)


@asynccontextmanager
async def translate_unreachable() -> AsyncIterator[None]:
    """Turn "the database is not there" into a refusal; every other database error stays what it is."""
    try:
        yield
    except Exception as error:
        if (refusal := _translated(error)) is not None:
            raise refusal from error
        raise


def _translated(error: Exception) -> OpsplaneError | None:
    if isinstance(error, PoolTimeout):
        return ServiceUnavailable(
            "All connections of this process are busy; try again, or raise OPSPLANE_POOL_SIZE.", service="database"
        )
    if isinstance(error, NOT_THERE):
        return _unreachable(error)
    if not isinstance(error, DBAPIError | asyncpg.PostgresError):
        return None
    if sqlstate(error) in POOLED:
        return _pooled(error)
    if is_unreachable(error):
        return _unreachable(getattr(error, "orig", None) or error)
    return InvalidInput("Text must not contain NUL characters.") if sqlstate(error) == NUL_IN_TEXT else None


def is_unreachable(error: BaseException) -> bool:
    """Whether the connection, rather than the statement, failed."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, OSError | asyncpg.PostgresConnectionError | asyncpg.CannotConnectNowError)
    code = sqlstate(error) or ""
    if code.startswith("08") or code in {"57P01", "57P02", "57P03", "53300", "3D000", "28000", "28P01"}:
        return True
    return error.connection_invalidated or (not code and isinstance(error, InterfaceError | OperationalError))


def sqlstate(error: BaseException) -> str | None:
    """The five-character SQLSTATE behind a SQLAlchemy error, if the server sent one."""
    original = getattr(error, "orig", error)
    return getattr(original, "sqlstate", None) or getattr(getattr(original, "__cause__", None), "sqlstate", None)


def _unreachable(error: BaseException) -> ServiceUnavailable:
    log.warning("database_unreachable", error=repr(error))
    return ServiceUnavailable(
        "The database cannot be reached; check OPSPLANE_DATABASE_URL and that PostgreSQL is up. The log says more.",
        service="database",
    )


def _pooled(error: Exception) -> ServiceUnavailable:
    log.warning("database_pooled", error=repr(getattr(error, "orig", None) or error))
    return ServiceUnavailable(
        f"{first_line(error).capitalize()}: OPSPLANE_DATABASE_URL seems to lead through a pooler in transaction mode; "
        "set OPSPLANE_DATABASE_POOLER=transaction.",
        service="database",
    )


def first_line(error: BaseException) -> str:
    """The error's own first line: what follows (DETAIL, SQL, parameters) can hold customer data."""
    text_ = _storable(str(getattr(error, "orig", None) or error)).strip()
    line = text_.splitlines()[0] if text_ else type(error).__name__
    return line.split(">: ", 1)[-1][:500]


def _storable(words: str) -> str:
    """The same without what PostgreSQL cannot keep: a failure that cannot be written down never ends its tenant."""
    return words.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
