"""`python -m bench.recorder FILE PORT`: an `opsplane serve` that writes down what each request asks of the database."""

import pickle
import signal
import sys
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event

from opsplane.cli import main

BEGIN, COMMIT, ROLLBACK = "BEGIN", "COMMIT", "ROLLBACK"
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

    def statement(
        _connection: Connection, _cursor: object, sql: str, arguments: Any, _context: object, many: bool
    ) -> None:
        for one in arguments if many else [arguments]:
            note(sql, tuple(one))

    event.listen(Engine, "begin", _noting(note, BEGIN))
    event.listen(Engine, "before_cursor_execute", statement)
    event.listen(Engine, "commit", _noting(note, COMMIT))
    event.listen(Engine, "rollback", _noting(note, ROLLBACK))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # uvicorn sends it to itself again when it has ended
    sys.argv[1:] = ["serve", "--port", port]
    try:
        main.run()
    finally:
        notes.write_bytes(pickle.dumps(seen))


def _noting(note: Callable[[str], None], sql: str) -> Callable[[Connection], None]:
    return lambda _connection: note(sql)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
