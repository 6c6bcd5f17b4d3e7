"""Starts commands of opsplane by fork, which costs a hundredth of a new interpreter.

Reads lines `{"module", "arguments", "environment", "log"}` and answers `{"started": pid}`, later `{"ended": pid, "code"}`.
"""

import json
import os
import select
import sys
from importlib import import_module
from typing import Any, NoReturn

TICK_S = 0.02
MODULES = {"deploy": "opsplane.cli.deploy", "main": "opsplane.cli.main"}


def main() -> None:
    """Fork and reap until the input ends."""
    for name in MODULES.values():
        import_module(name)
    _say({"ready": True})
    while True:
        if select.select([sys.stdin], [], [], TICK_S)[0]:
            line = os.read(0, 65536)  # the parent waits for the answer, so this is one whole line
            if not line:
                return
            _say({"started": _fork(json.loads(line))})
        _reap()


def _fork(asked: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        _become(asked)
    return pid


def _become(asked: dict[str, Any]) -> NoReturn:
    code = 70
    try:
        null, log = (
            os.open(os.devnull, os.O_RDONLY),
            os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
        )
        for number, file in enumerate((null, log, log)):
            os.dup2(file, number)
        os.environ.update(asked["environment"])
        sys.argv = [asked["module"], *asked["arguments"]]
        import_module(MODULES[asked["module"]]).run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def _reap() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
