"""A program that starts a run for each number on its standard input, through the orchestrator it is given."""

import asyncio
import sys
from collections.abc import Awaitable, Callable

from bench.crew import work

Enqueue = Callable[[int, list[str]], Awaitable[None]]


async def start_all(enqueue: Enqueue) -> None:
    """Say `ready`, then start what is asked for; a line says that a run is enqueued."""
    _say("ready")
    while line := await asyncio.to_thread(sys.stdin.readline):
        run = int(line)
        await enqueue(run, await work.add_run(run))
        _say(f"enqueued {run}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
