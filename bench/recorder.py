"""`python -m bench.recorder FILE PORT`: an `opsplane serve` that writes down what each request asks of the database."""

import pickle
import signal
import sys
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from asyncpg.prepared_stmt import PreparedStatement

from opsplane.cli import main
from opsplane.connections import Watched

FRAME = ("BEGIN", "COMMIT", "ROLLBACK")  # how statements begin that are no questions
Step = tuple[str, tuple[Any, ...]]
Steps = list[Step]
mine: ContextVar[Steps | None] = ContextVar("mine", default=None)  # of a request and the tasks that it makes


def serve(notes: Path, port: str) -> None:
    """Be a server until SIGTERM."""
    seen: list[Steps] = []

    def note(sql: str, arguments: tuple[Any, ...] = ()) -> None:
        if (steps := mine.get()) is None:
            steps = Steps()
            mine.set(steps)
            seen.append(steps)
        steps.append((sql, arguments))

    _noting(Watched, "execute", lambda _connection, sql, *given: note(sql, given))
    _noting(Watched, "fetch", lambda _connection, sql, *given: note(sql, given))
    _noting(PreparedStatement, "fetch", lambda prepared, *given: note(prepared.get_query(), given))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # uvicorn sends it to itself again when it has ended
    sys.argv[1:] = ["serve", "--port", port]
    try:
        main.run()
    finally:
        notes.write_bytes(pickle.dumps(seen))


def _noting(owner: type, name: str, note: Callable[..., None]) -> None:
    """Everything passes here on its way to the driver: SQLAlchemy's statements are prepared, others are not."""
    original = getattr(owner, name)

    async def noted(self: Any, *given: Any, **named: Any) -> Any:
        note(self, *given)
        return await original(self, *given, **named)

    setattr(owner, name, noted)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
