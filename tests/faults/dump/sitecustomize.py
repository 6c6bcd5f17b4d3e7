"""On the path of a stand's processes: SIGUSR1 has them write down where every thread and every task is."""

import asyncio
import contextlib
import faulthandler
import signal
import sys
from typing import Any

WAITS_FOR = ("cr_await", "gi_yieldfrom", "ag_await")
FRAMES = ("cr_frame", "gi_frame", "ag_frame")


def _first(thing: Any, names: tuple[str, ...]) -> Any:
    return next((found for name in names if (found := getattr(thing, name, None)) is not None), None)


def _tasks(*_: object) -> None:
    with contextlib.suppress(RuntimeError):  # no loop runs
        for task in asyncio.all_tasks(asyncio.get_running_loop()):
            sys.stderr.write(f"{task!r}\n")
            at: Any = task.get_coro()
            while at is not None:
                if (frame := _first(at, FRAMES)) is not None:
                    sys.stderr.write(f"    {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}\n")
                at = _first(at, WAITS_FOR)
        sys.stderr.flush()


signal.signal(signal.SIGUSR1, _tasks)
faulthandler.register(signal.SIGUSR1, chain=True)
