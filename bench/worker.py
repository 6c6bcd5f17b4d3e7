"""`python -m bench.worker FILE`: an `opsplane worker` that writes down how long each chunk took, when it ends."""

import json
import sys
from pathlib import Path

from opsplane.cli import main
from opsplane.runs import metrics


def work(notes: Path) -> None:
    """Be a worker until SIGTERM."""
    seen: list[tuple[int, float]] = []
    count = metrics.chunk

    def counted(run_type: str, rows: int, seconds: float) -> None:
        seen.append((rows, seconds))
        count(run_type, rows, seconds)

    metrics.chunk = counted
    sys.argv[1:] = ["worker"]
    try:
        main.run()
    finally:
        notes.write_text(json.dumps(seen))


if __name__ == "__main__":
    work(Path(sys.argv[1]))
