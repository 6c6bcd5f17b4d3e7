"""`python -m bench.recorder FILE PORT`: an `opsplane serve` that writes down what each request asks of the database."""

import pickle
import signal
import sys
from collections.abc import Callable
from contextvars import ContextVar
from itertools import chain
from pathlib import Path
from typing import Any

from asyncpg.prepared_stmt import PreparedStatement

from opsplane.cli import main
from opsplane.connections import Watched

FRAME = ("BEGIN", "COMMIT", "ROLLBACK")  # how statements begin that are no questions
Step = tuple[str, tuple[Any, ...]]
Steps = list[Step]
Asked = dict[int, Steps]  # of each connection
mine: ContextVar[Asked | None] = ContextVar("mine", default=None)  # of a request and the tasks that it makes


def serve(notes: Path, port: str) -> None:
    """Be a server until SIGTERM."""
    seen: list[Asked] = []

    def note(connection: object, sql: str, arguments: tuple[Any, ...] = ()) -> None:
        if (asked := mine.get()) is None:
            asked = Asked()
            mine.set(asked)
            seen.append(asked)
        asked.setdefault(id(connection), []).append((sql, arguments))

    _noting(Watched, "execute", lambda connection, sql, *given: note(connection, sql, given))
    _noting(Watched, "fetch", lambda connection, sql, *given: note(connection, sql, given))
    _noting(PreparedStatement, "fetch", lambda prepared, *given: note(_of(prepared), prepared.get_query(), given))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # uvicorn sends it to itself again when it has ended
    sys.argv[1:] = ["serve", "--port", port]
    try:
        main.run()
    finally:
        notes.write_bytes(pickle.dumps([list(chain(*asked.values())) for asked in seen]))


def _of(prepared: PreparedStatement) -> object:
    return prepared._connection  # noqa: SLF001 - asyncpg tells it nowhere else


def _noting(owner: type, name: str, note: Callable[..., None]) -> None:
    """Everything passes here on its way to the driver: SQLAlchemy's statements are prepared, others are not."""
    original = getattr(owner, name)

    async def noted(self: Any, *given: Any, **named: Any) -> Any:
        note(self, *given)
        return await original(self, *given, **named)

    setattr(owner, name, noted)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
